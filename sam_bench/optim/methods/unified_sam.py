"""A perturbation between SAM's and that of unnormalised SAM.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.norms import Direction, global_norm
from sam_bench.optim.registry import METHODS
from sam_bench.optim.sharpness_aware import SharpnessAware


class UnifiedSAM(SharpnessAware):
    """SAM with a norm that counts in part: `e = ρ (1 − λ + λ / (‖g‖ + 1e-12)) g`, `v = h`.

    Oikonomou & Loizou (2025), arXiv:2503.02225. λ is constant: the paper also has λ = 1 / t and λ = 1 − 1 / t.

    Args:
        lmbda: λ, in [0, 1]; 0 is `USAM` and 1 is `SAM`.

    Raises:
        ValueError: lmbda is out of range.

    Example:
        >>> optimizer = UnifiedSAM(model.parameters(), torch.optim.SGD, rho=0.05, lmbda=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        lmbda: float = 0.5,
        **options: Any,
    ):
        METHODS["unified_sam"].check(lmbda=lmbda)
        super().__init__(params, base_optimizer, rho, **options)
        self.lmbda = lmbda

    def direction(self, w: Tensors, g: Tensors) -> Direction:
        return Direction(g, 1 - self.lmbda + self.lmbda / (global_norm(g) + 1e-12))
