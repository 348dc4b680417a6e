"""Perturbations along a running average of the gradient, or along the gradient without that average.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.norms import Direction, unit
from sam_bench.optim.registry import METHODS
from sam_bench.optim.sharpness_aware import SharpnessAware


class FSAM(SharpnessAware):
    """Friendly SAM: `d = g − σ m`, `e = ρ d / ‖d‖`, `v = h`; then `m ← λ m + (1 − λ) g`, or `m ← g` the first time.

    Li et al. (2024), arXiv:2403.12350. In the first step `m` is 0.

    As in the authors' code, `m` is the average over the previous steps. An average that included the present gradient
    would give the same direction if σ is 1, and another one if σ is below 1.

    Args:
        sigma: σ, the share of `m`, the estimate of the full gradient, that is subtracted.
        lmbda: λ, the decay of `m`.

    Raises:
        ValueError: sigma or lmbda is out of range.

    Example:
        >>> optimizer = FSAM(model.parameters(), torch.optim.SGD, rho=0.05, sigma=1.0, lmbda=0.9, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.2,
        *,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        **options: Any,
    ):
        METHODS["fsam"].check(sigma=sigma, lmbda=lmbda)
        super().__init__(params, base_optimizer, rho, **options)
        self.sigma = sigma
        self.lmbda = lmbda

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        return {"m": torch.zeros_like(p), "started": p.new_zeros(())}

    def direction(self, w: Tensors, g: Tensors, m: Tensors, started: Tensors) -> Direction:
        return unit(torch._foreach_sub(g, m, alpha=self.sigma))

    def update_state(self, g: Tensors, h: Tensors, m: Tensors, started: Tensors) -> dict[str, Tensors]:
        # The share of g in the average: 1 in a tensor's first step, then 1 − λ.
        share = torch._foreach_mul(started, -self.lmbda)
        torch._foreach_add_(share, 1)

        new = [torch.lerp(old, x, s) for old, x, s in zip(m, g, share, strict=True)]
        return {"m": new, "started": [torch.ones_like(s) for s in started]}


class VaSSO(SharpnessAware):
    """Variance-suppressed SAM: `d ← (1 − θ) d + θ g`, starting at 0; `e = ρ d / ‖d‖`, `v = h`.

    Li & Giannakis (2023), arXiv:2309.15639.

    The authors' code starts with `d = g` and divides by `‖d‖ + 1e-7`. With `d = 0` the first perturbation is the same,
    because only the direction of `d` counts. In later steps the first gradient has θ times the weight it has there.

    Args:
        theta: θ, the share of the present gradient; 1 is SAM.

    Raises:
        ValueError: theta is out of range.

    Example:
        >>> optimizer = VaSSO(model.parameters(), torch.optim.SGD, rho=0.05, theta=0.9, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.1, *, theta: float = 0.9, **options: Any
    ):
        METHODS["vasso"].check(theta=theta)
        super().__init__(params, base_optimizer, rho, **options)
        self.theta = theta

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        return {"d": torch.zeros_like(p)}

    def direction(self, w: Tensors, g: Tensors, d: Tensors) -> Direction:
        return unit(torch._foreach_lerp(d, g, self.theta))

    def update_state(self, g: Tensors, h: Tensors, d: Tensors) -> dict[str, Tensors]:
        return {"d": torch._foreach_lerp(d, g, self.theta)}
