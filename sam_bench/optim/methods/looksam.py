"""SAM in every k-th step only.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import Direction, along, global_norm
from sam_bench.optim.registry import METHODS


class SAMEveryK(SAM):
    """SAM in steps 0, k, 2k, …; the base optimizer's own step, of one pass, in the others.

    Args:
        k: the number of steps from one second pass to the next; 1 is SAM.
        adaptive: use ASAM's perturbation instead of SAM's.

    Raises:
        ValueError: k is out of range.

    Example:
        >>> optimizer = SAMEveryK(model.parameters(), torch.optim.SGD, rho=0.05, k=5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> losses = [optimizer.step(closure) for _ in range(9)]
        >>> optimizer.passes  # in ten steps
        12.0
    """

    def __init__(self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.05, *, k: int = 1, **options: Any):
        METHODS["sam_every_k"].check(k=k)
        self.k = k
        super().__init__(params, base_optimizer, rho, **options)

    def has_second_pass(self, t: int) -> bool:
        return t % self.k == 0


class LookSAM(SAMEveryK):
    """SAM in every k-th step; in the others `v = g + α (‖g‖ / ‖h_v‖) h_v`, where `h_v = h − (⟨h, g⟩ / ‖g‖²) g`.

    `h_v` is computed in a SAM step and used again in the steps after it, because it changes slowly (Liu et al., 2022,
    arXiv:2203.02714).

    Args:
        k: the number of steps from one second pass to the next; 1 is SAM.
        alpha: α, the weight of `h_v`.
        adaptive: use ASAM's perturbation instead of SAM's.

    Raises:
        ValueError: k or alpha is out of range.

    Example:
        >>> optimizer = LookSAM(model.parameters(), torch.optim.SGD, rho=0.05, k=5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> losses = [optimizer.step(closure) for _ in range(9)]
        >>> optimizer.passes  # in ten steps
        12.0
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.1,
        *,
        k: int = 5,
        alpha: float = 0.7,
        **options: Any,
    ):
        METHODS["looksam"].check(alpha=alpha)
        super().__init__(params, base_optimizer, rho, k=k, **options)
        self.alpha = alpha

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        return {"h_v": torch.zeros_like(p)}

    def direction(self, w: Tensors, g: Tensors, h_v: Tensors) -> Direction:
        return super().direction(w, g)

    def combine_single(self, g: Tensors, h_v: Tensors) -> Tensors:
        scale = self.alpha * global_norm(g) / (global_norm(h_v) + 1e-12)
        return torch._foreach_add(g, torch._foreach_mul(h_v, scale))

    def update_state(self, g: Tensors, h: Tensors, h_v: Tensors) -> dict[str, Tensors]:
        return {"h_v": torch._foreach_sub(h, torch._foreach_mul(g, along(h, g)))}
