"""SAM whose direction is as long as the first gradient."""

import torch

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import global_norm


class StableSAM(SAM):
    """`v = (‖g‖ / ‖h‖) h`, or 0 where `h` is 0: `h` at the length of `g` (Tan et al., 2024, arXiv:2401.07250).

    `g` is short where `w` is near a stationary point; `h` need not be. The authors' code adds 1e-12 to `‖h‖`; without
    it, a radius of 0 is the base optimizer, bit for bit.

    Args:
        adaptive: perturb as ASAM does, rather than as SAM. The authors' code then measures `g` and `h` scaled by `|w|`;
            here the lengths are those of the gradients.

    Example:
        >>> optimizer = StableSAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        norm = global_norm(h)
        return torch._foreach_mul(h, torch.where(norm > 0, global_norm(g) / norm, 0.0))
