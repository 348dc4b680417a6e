"""The base optimizer alone: one pass and no perturbation."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sam_bench.optim.sharpness_aware import SharpnessAware


class SGD(SharpnessAware):
    """The base optimizer's own step, taken as all methods take theirs: the baseline of every comparison."""

    two_passes = False

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        *,
        model: nn.Module | None = None,
        **options: Any,
    ):
        super().__init__(params, base_optimizer, 0.0, model=model, **options)
