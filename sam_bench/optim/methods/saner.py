"""SAM that takes still less of what it takes less of than the base optimizer does."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.registry import METHODS


class SANER(SAM):
    """`v = (1 − α m) h`, where `m` is 1 for the elements with `0 < h / g < 1`, and 0 for the others.

    On noisy data these elements are found to be those in which wrong labels have the greater part of the gradient
    (Luong et al., 2024, arXiv:2411.17132). The authors' code divides by `g + 1e-8`, and lets α grow to its value over
    the first 50 epochs; here nothing is divided, and α is the same in all steps.

    Args:
        alpha: α, how much of these elements is taken away; 0 is SAM.
        adaptive: perturb as ASAM does, rather than as SAM.

    Raises:
        ValueError: alpha is out of range.

    Example:
        >>> optimizer = SANER(model.parameters(), torch.optim.SGD, rho=0.05, alpha=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.1,
        *,
        alpha: float = 0.5,
        adaptive: bool = False,
        model: nn.Module | None = None,
        **options: Any,
    ):
        METHODS["saner"].check(alpha=alpha)
        super().__init__(params, base_optimizer, rho, adaptive=adaptive, model=model, **options)
        self.alpha = alpha

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        first, v = FlatCopy(g), FlatCopy(h, like=g)
        for a, b in zip(first.buffers, v.buffers, strict=True):
            reduced = ((a > 0) == (b > 0)) & (b.abs() < a.abs())  # where b is 0, its factor is all the same
            b.copy_(torch.where(reduced, (1 - self.alpha) * b, b))
        return v.views
