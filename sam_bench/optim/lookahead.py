"""Lookahead as in airbench94: every few steps the weights are set to their own running mean."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

#: Exponent of `t / T`, the finished share of the run, in the old mean's weight.
POWER = 3


class Lookahead:
    """A running mean to which weights and statistics are set every few steps (Jordan, 2024, arXiv:2404.00498).

    After step t of T, where t is a multiple of `every`: `mean ← a · mean + (1 − a) · w` with
    `a = decay ** every · (t / T) ** 3`, and `w ← mean`. After step T the weights are the mean. The mean begins as the
    weights before the first step. The base optimizer's momentum is left alone.

    Call `update` after whole steps only, when the weights are not perturbed.

    Args:
        tensors: weights and statistics, which stay the same objects; those that are not floating-point are left out.
        steps: T, the number of steps of the whole run.
        every: number of steps from one update of the mean to the next.
        decay: factor of the old mean for each step, at the end of the run.

    Raises:
        ValueError: every or steps is below 1, or decay is not in [0, 1).

    Example:
        >>> lookahead = Lookahead([*model.parameters(), *model.buffers()], steps=100)
        >>> for _ in range(100):
        ...     loss = optimizer.step(closure)
        ...     lookahead.update()
    """

    def __init__(self, tensors: Iterable[Tensor], steps: int, every: int = 5, decay: float = 0.95):
        if every < 1 or steps < 1:
            raise ValueError(f"every={every} and steps={steps} must be at least 1")
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        self.tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
        self.steps = steps
        self.every = every
        self.decay = decay
        #: Calls of `update` so far.
        self.count = 0
        self.mean = [tensor.detach().clone() for tensor in self.tensors]

    @classmethod
    def of(cls, model: nn.Module, steps: int, every: int = 5, decay: float = 0.95) -> "Lookahead":
        """Return a `Lookahead` over all parameters and buffers of a model."""
        return cls([*model.parameters(), *model.buffers()], steps, every, decay)

    @torch.no_grad()
    def update(self) -> None:
        """Count a step; after every `every` steps, update the mean and set the weights to it."""
        self.count += 1
        is_due = self.count % self.every == 0
        is_last = self.count == self.steps
        if not (is_due or is_last):
            return

        # The run may end between two updates: the steps since the last one are then dropped.
        tensors = [tensor.detach() for tensor in self.tensors]
        if is_due:
            torch._foreach_lerp_(self.mean, tensors, 1 - self.old_weight(self.count))
        torch._foreach_copy_(tensors, self.mean)

    def old_weight(self, step: int) -> float:
        """Return the weight of the old mean in an update after `step` steps."""
        return self.decay**self.every * (step / self.steps) ** POWER

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the mean."""
        return {"count": self.count, "mean": [tensor.clone() for tensor in self.mean]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()`; load the weights themselves too.

        Raises:
            ValueError: the state is a mean of other tensors.
        """
        if [mean.shape for mean in state["mean"]] != [mean.shape for mean in self.mean]:
            raise ValueError(
                "this is a mean of other tensors: their number or shapes differ; load the state of this model"
            )
        self.count = state["count"]
        torch._foreach_copy_(
            self.mean, [mean.to(own.device) for mean, own in zip(state["mean"], self.mean, strict=True)]
        )
