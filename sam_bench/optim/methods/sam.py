"""Sharpness-aware minimisation."""

import torch
from torch import Tensor

from sam_bench.optim.methods.base import Method, global_norm


class SAM(Method):
    """`e = ρ g / (‖g‖ + 1e-12)`, `v = h` (Foret et al., 2021, arXiv:2010.01412, equation 2)."""

    def direction(self, w: list[Tensor], g: list[Tensor]) -> list[Tensor]:
        return torch._foreach_div(g, global_norm(g) + 1e-12)
