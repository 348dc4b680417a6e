"""SAM that reduces further the elements of the gradient that its perturbation has made smaller (SANER).

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.registry import METHODS


class SANER(SAM):
    """SAM with `v = (1 − α m) h`, where m is 1 for elements with `0 < h / g < 1` and 0 for the others.

    Luong et al. (2024, arXiv:2411.17132) find that wrong labels dominate the gradient in these elements. Their code
    divides by `g + 1e-8`, and increases α to its value over the first 50 epochs. Here nothing is divided, and α is
    constant.

    Args:
        alpha: α, the share of these elements that is removed; 0 is SAM.
        adaptive: use ASAM's perturbation instead of SAM's.

    Raises:
        ValueError: alpha is out of range.

    Example:
        >>> optimizer = SANER(model.parameters(), torch.optim.SGD, rho=0.05, alpha=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.1, *, alpha: float = 0.5, **options: Any
    ):
        METHODS["saner"].check(alpha=alpha)
        super().__init__(params, base_optimizer, rho, **options)
        self.alpha = alpha

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        flat_g, flat_v = FlatCopy(g), FlatCopy(h, like=g)
        for x, v in zip(flat_g.buffers, flat_v.buffers, strict=True):
            is_reduced = ((x > 0) == (v > 0)) & (v.abs() < x.abs())  # where v is 0, its factor makes no difference
            v.copy_(torch.where(is_reduced, (1 - self.alpha) * v, v))
        return flat_v.views
