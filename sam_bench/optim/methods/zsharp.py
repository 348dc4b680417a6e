"""SAM whose perturbation keeps the elements of the gradient that stand out from their tensor."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.norms import global_norm
from sam_bench.optim.registry import METHODS


class ZSharp(SharpnessAware):
    """In each tensor `e = ρ g̃ / ‖g̃‖`, where `g̃` keeps of `g` the elements with `|z|` above its `Q`-quantile; `v = h`.

    `z = (g − mean) / std` is over the tensor. Tensors of one dimension, and those in which no element is above the
    quantile, are perturbed as in SAM: `e = ρ g / ‖g‖`, with the norm of all gradients. Yun (2025, arXiv:2505.02369).

    That is the authors' code: each tensor has a perturbation of length ρ of its own, and so the whole one is longer by
    about the root of their number. As the same elements stand out with any `std`, nothing is divided by it.

    Args:
        quantile: Q, interpolated linearly.

    Raises:
        ValueError: quantile is out of range.

    Example:
        >>> optimizer = ZSharp(model.parameters(), torch.optim.SGD, rho=0.05, quantile=0.95, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    whole_tensors = True

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.05,
        *,
        quantile: float = 0.95,
        model: nn.Module | None = None,
        **options: Any,
    ):
        METHODS["zsharp"].check(quantile=quantile)
        super().__init__(params, base_optimizer, rho, model=model, **options)
        self.quantile = quantile

    def direction(self, w: Tensors, g: Tensors) -> Tensors:
        inverse_norm = 1 / (global_norm(g) + 1e-12)
        return [self._of_tensor(x, inverse_norm) if x.dim() > 1 and x.numel() else x * inverse_norm for x in g]

    def _of_tensor(self, g: Tensor, inverse_norm: Tensor) -> Tensor:
        precise = g.to(torch.promote_types(g.dtype, torch.float32))
        deviation = (precise - precise.mean()).abs()
        kept = torch.where(deviation > quantile(deviation, self.quantile), g, 0.0)
        norm = torch.linalg.vector_norm(kept)
        return torch.where(norm > 0, kept / (norm + 1e-12), g * inverse_norm)


def quantile(x: Tensor, q: float) -> Tensor:
    """The `q`-quantile of a tensor's elements, interpolated linearly: `torch.quantile` for any number and precision."""
    values = x.flatten().sort().values
    place = q * (len(values) - 1)
    below = int(place)
    return torch.lerp(values[below], values[min(below + 1, len(values) - 1)], place - below)
