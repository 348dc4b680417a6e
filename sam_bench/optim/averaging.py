"""Averages of weights over training, for any optimizer."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.gradients import local


class WeightAverage:
    """A running or an exponential mean of parameters, kept beside them in at least float32.

    Args:
        parameters: tensors, which stay the same objects.
        decay: decay of the exponential mean, `mean ← decay · mean + (1 − decay) · w`, starting at the first `w`; None
            for the running mean, `mean ← mean + (w − mean) / n` (Izmailov et al., 2018, arXiv:1803.05407).

    Raises:
        ValueError: the decay is not in [0, 1).
        TypeError: a module is given instead of its parameters.

    Example:
        >>> average = WeightAverage(model.parameters())
        >>> average.update()  # after each epoch, say
        >>> with average.swapped():
        ...     output = model(x)
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float | None = None):
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        if isinstance(parameters, torch.nn.Module):
            raise TypeError("WeightAverage takes parameters: give it model.parameters()")
        self.parameters = list(parameters)
        self.decay = decay
        #: Number of updates so far.
        self.count = 0
        self.mean: list[Tensor] = []
        self._raw: list[Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights to the mean.

        Raises:
            RuntimeError: the weights are swapped with their mean.
        """
        self._refuse_swapped("update()")

        self.count += 1
        if self.count == 1:
            self.mean = [p.detach().clone().to(torch.promote_types(p.dtype, torch.float32)) for p in self.parameters]
            return

        share = 1 / self.count if self.decay is None else 1 - self.decay
        w = [p.to(m.dtype) for p, m in zip(self.parameters, self.mean, strict=True)]
        torch._foreach_lerp_(self.mean, w, share)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the mean in the weights' place; called again, put the weights back, bit for bit.

        Raises:
            RuntimeError: `update` was not called yet.
        """
        if not self.count:
            raise RuntimeError("there is no mean of the weights yet: call update() first")

        if self._raw is None:
            raw = [p.detach().clone() for p in self.parameters]
            torch._foreach_copy_([local(p) for p in self.parameters], [local(m) for m in self.mean])
            self._raw = raw
        else:
            torch._foreach_copy_([local(p) for p in self.parameters], [local(p) for p in self._raw])
            self._raw = None
        torch.clear_autocast_cache()  # an autocast around this must not use the old weights

    @property
    def is_swapped(self) -> bool:
        """Return True if the mean is in the weights' place."""
        return self._raw is not None

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the mean in the weights' place inside this context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Any]:
        """Return count and mean.

        Raises:
            RuntimeError: the weights are swapped with their mean, and would be lost, since the state has no copy.
        """
        self._refuse_swapped("state_dict()")
        return {"count": self.count, "mean": [m.clone() for m in self.mean]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()`; load the weights themselves first.

        Raises:
            ValueError: the state is a mean of other parameters.
        """
        if state["mean"] and [m.shape for m in state["mean"]] != [p.shape for p in self.parameters]:
            raise ValueError("this is a mean of other parameters: their number or shapes differ")
        self.count = state["count"]
        self._raw = None
        self.mean = [m.to(p.device, copy=True) for m, p in zip(state["mean"], self.parameters, strict=False)]

    def _refuse_swapped(self, caller: str) -> None:
        """Raise an error if the weights are swapped with their mean.

        Raises:
            RuntimeError: the weights are swapped with their mean.
        """
        if self.is_swapped:
            raise RuntimeError(f"{caller} while the weights are swapped with their mean: swap them back first")
