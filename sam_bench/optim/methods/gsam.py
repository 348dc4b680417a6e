"""Surrogate-gap guided sharpness-aware minimisation."""

import torch
from torch import Tensor

from sam_bench.optim.methods.asam import ASAM
from sam_bench.optim.methods.base import Method, inner_product
from sam_bench.optim.methods.sam import SAM


class GSAM(Method):
    """`v = h − α (g − (⟨g, h⟩ / ‖h‖²) h)` (Zhuang et al., 2022, arXiv:2203.08065, algorithm 1).

    Its radius follows the learning rate: `rho_schedule=proportional`.

    Args:
        alpha: α, the weight of the part of `g` orthogonal to `h`.
        adaptive: perturb as ASAM does, rather than as SAM.
    """

    keeps_gradient = True

    def __init__(self, alpha: float = 0.4, adaptive: bool = True):
        self.alpha = alpha
        self.direction = (ASAM() if adaptive else SAM()).direction

    def combine(self, g: list[Tensor], h: list[Tensor]) -> list[Tensor]:
        squared = inner_product(h, h)
        along = torch.where(squared > 0, inner_product(g, h) / squared, 0.0)
        orthogonal = torch._foreach_sub(g, torch._foreach_mul(h, along))
        return torch._foreach_sub(h, orthogonal, alpha=self.alpha)
