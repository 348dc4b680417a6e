"""SAM that rescales its direction to the length of the first gradient.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

import torch

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import global_norm


class StableSAM(SAM):
    """SAM with `h` rescaled to the length of `g`: `v = (‖g‖ / ‖h‖) h`, or 0 if `h` is 0.

    Tan et al. (2024), arXiv:2401.07250. Near a stationary point `g` is short, but `h` need not be. The authors' code
    adds 1e-12 to `‖h‖`. Without it, a radius of 0 gives the base optimizer, bit for bit.

    Args:
        adaptive: use ASAM's perturbation instead of SAM's. The authors' code then takes the norms of `g` and `h` scaled
            by `|w|`; here they are always those of `g` and `h`.

    Example:
        >>> optimizer = StableSAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        norm = global_norm(h)
        return torch._foreach_mul(h, torch.where(norm > 0, global_norm(g) / norm, 0.0))
