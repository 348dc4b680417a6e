"""Adaptive sharpness-aware minimisation (ASAM), in the two forms that are in use.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import Direction, scaled_unit
from sam_bench.optim.registry import METHODS
from sam_bench.optim.sharpness_aware import SharpnessAware


class ASAM(SAM):
    """ASAM without an offset: `e = ρ T² g / (‖T g‖ + 1e-12)` with `T = |w|` on every tensor; `v = h`.

    This is the element-wise form of Kwon et al. (2021, arXiv:2102.11600, equation 8) with an offset η of 0, as in the
    SAM example and most code that followed it.

    Example:
        >>> optimizer = ASAM(model.parameters(), torch.optim.SGD, rho=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    def __init__(self, params: Params, base_optimizer: BaseOptimizer, rho: float = 2.0, **options: Any):
        super().__init__(params, base_optimizer, rho, adaptive=True, **options)


class OfficialASAM(SharpnessAware):
    """ASAM as its authors published it: `T = |w| + η` on tensors with "weight" in their names, `T = 1` on the others.

    The formula is that of `ASAM` (Kwon et al., 2021, arXiv:2102.11600, equation 8); the choice of tensors is that of
    the authors' code.

    Args:
        eta: the offset η, in units of the weights.

    Raises:
        ValueError: eta is out of range, or the parameters have no names (give `model.named_parameters()`).

    Example:
        >>> optimizer = OfficialASAM(model.named_parameters(), torch.optim.SGD, rho=0.5, eta=0.01, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    needs_names = True

    def __init__(
        self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.5, *, eta: float = 0.01, **options: Any
    ):
        METHODS["asam_official"].check(eta=eta)
        super().__init__(params, base_optimizer, rho, **options)
        self.eta = eta
        if not self.names():
            raise ValueError(
                "OfficialASAM selects tensors by name, and the parameters have none: give model.named_parameters()"
            )

    def direction(self, w: Tensors, g: Tensors, names: list[str]) -> Direction:
        scale = torch._foreach_abs(w)
        if weights := [t for t, name in zip(scale, names, strict=True) if "weight" in name]:
            torch._foreach_add_(weights, self.eta)
        if others := [t for t, name in zip(scale, names, strict=True) if "weight" not in name]:
            torch._foreach_zero_(others)
            torch._foreach_add_(others, 1.0)
        return scaled_unit(scale, g)
