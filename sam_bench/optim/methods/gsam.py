"""Surrogate-gap guided sharpness-aware minimisation (GSAM).

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import along
from sam_bench.optim.options import Option
from sam_bench.optim.registry import METHODS

_RHO_MIN = Option("rho_min", float, "the radius at the learning rate lr_min", ge=0, optional=True)
_LR_MIN = Option("lr_min", float, "the last learning rate of the schedule", ge=0)
_LR_MAX = Option("lr_max", float, "the greatest learning rate of the schedule", ge=0, optional=True)


class GSAM(SAM):
    """SAM minus α times the part of g orthogonal to h: `v = h − α (g − (⟨g, h⟩ / ‖h‖²) h)`.

    Zhuang et al. (2022), arXiv:2203.08065. The defaults of this class are SAM's radius and perturbation. Those of
    `optimizer=gsam` are the authors' for CIFAR: `rho=2.0`, `adaptive=True`, and `rho_min=2.0`, a constant radius.

    Args:
        rho_min: if given, the radius follows the learning rate and stays between `rho_min` and `rho`:
            `(ρ_t − ρ_min) / (ρ − ρ_min) = (η_t − η_min) / (η_max − η_min)`.
        alpha: α, the weight of the part of `g` orthogonal to `h`.
        adaptive: use ASAM's perturbation instead of SAM's.
        lr_min: η_min, the last learning rate of the schedule.
        lr_max: η_max, the greatest learning rate of the schedule; by default the one that the base is made with.

    Raises:
        ValueError: a setting is out of range, rho_min is above rho, or lr_min is not below lr_max.

    Example:
        >>> optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.05, alpha=0.4, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        rho_min: float | None = None,
        alpha: float = 0.4,
        lr_min: float = 0.0,
        lr_max: float | None = None,
        **options: Any,
    ):
        METHODS["gsam"].check(alpha=alpha)
        _RHO_MIN.check(rho_min)
        _LR_MIN.check(lr_min)
        _LR_MAX.check(lr_max)

        self.lr_max = lr_max  # set first: the constructor below calls `add_param_group`, which reads it
        super().__init__(params, base_optimizer, rho, **options)
        self.rho_min = rho_min
        self.alpha = alpha
        self.lr_min = lr_min

        if rho_min is not None:
            for group in self.param_groups:
                if not rho_min <= group["rho"]:
                    raise ValueError(f"rho_min={rho_min} must be at most rho={group['rho']}")
                if not lr_min < group["lr_max"]:
                    raise ValueError(f"lr_min={lr_min} must be below lr_max={group['lr_max']}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("lr_max", float(group["lr"]) if self.lr_max is None else self.lr_max)

    def radius(self, group: dict[str, Any]) -> float | Tensor:
        if self.rho_min is None:
            return super().radius(group)
        return proportional_radius(
            group["lr"], lr_min=self.lr_min, lr_max=group["lr_max"], rho_min=self.rho_min, rho=group["rho"]
        )

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        orthogonal = torch._foreach_sub(g, torch._foreach_mul(h, along(g, h)))
        return torch._foreach_sub(h, orthogonal, alpha=self.alpha)


def proportional_radius(
    lr: float | Tensor, *, lr_min: float, lr_max: float, rho_min: float, rho: float
) -> float | Tensor:
    """Return the radius ρ_t for which `(ρ_t − ρ_min) / (ρ − ρ_min) = (η_t − η_min) / (η_max − η_min)`.

    Zhuang et al. (2022), arXiv:2203.08065.

    Args:
        lr: η_t, the present learning rate; it is clamped to the range from `lr_min` to `lr_max`.
    """
    share = (lr - lr_min) / (lr_max - lr_min)
    share = share.clamp(0, 1) if isinstance(share, Tensor) else min(1.0, max(0.0, share))
    return rho_min + (rho - rho_min) * share
