"""SAM that perturbs along the elements of the gradient that stand out within their tensor.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.norms import global_norm
from sam_bench.optim.registry import METHODS
from sam_bench.optim.sharpness_aware import SharpnessAware


class ZSharp(SharpnessAware):
    """SAM with `e = ρ g̃ / ‖g̃‖` in each tensor, where g̃ is g with all but its most outstanding elements set to 0.

    Kept are the elements with `|z|` above its Q-quantile, where `z = (g − mean) / std` within the tensor (Yun, 2025,
    arXiv:2505.02369). Tensors of one dimension, and tensors without an element above the quantile, are perturbed as in
    SAM: `e = ρ g / ‖g‖`, with the norm over all tensors.

    As in the authors' code, each tensor's perturbation has length ρ. So the whole perturbation is longer than SAM's, by
    about the square root of the number of tensors. No division by `std` is needed, because it keeps the order of the
    elements.

    Args:
        quantile: Q, in [0, 1); the quantile is interpolated linearly.

    Raises:
        ValueError: quantile is out of range.

    Example:
        >>> optimizer = ZSharp(model.parameters(), torch.optim.SGD, rho=0.05, quantile=0.95, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    whole_tensors = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        quantile: float = 0.95,
        **options: Any,
    ):
        METHODS["zsharp"].check(quantile=quantile)
        super().__init__(params, base_optimizer, rho, **options)
        self.quantile = quantile

    def direction(self, w: Tensors, g: Tensors) -> Tensors:
        inverse_norm = 1 / (global_norm(g) + 1e-12)
        return [self._keep_outstanding(x, inverse_norm) if x.dim() > 1 and x.numel() else x * inverse_norm for x in g]

    def _keep_outstanding(self, g: Tensor, inverse_norm: Tensor) -> Tensor:
        """Return one tensor's direction of length 1, or SAM's direction if no element stands out."""
        precise = g.to(torch.promote_types(g.dtype, torch.float32))
        deviation = (precise - precise.mean()).abs()
        kept = torch.where(deviation > quantile(deviation, self.quantile), g, 0.0)
        norm = torch.linalg.vector_norm(kept)
        return torch.where(norm > 0, kept / (norm + 1e-12), g * inverse_norm)


def quantile(x: Tensor, q: float) -> Tensor:
    """Return the `q`-quantile of a tensor's elements, interpolated linearly.

    Unlike `torch.quantile`, it takes tensors of any size and precision.
    """
    values = x.flatten().sort().values
    position = q * (len(values) - 1)
    below = int(position)
    return torch.lerp(values[below], values[min(below + 1, len(values) - 1)], position - below)
