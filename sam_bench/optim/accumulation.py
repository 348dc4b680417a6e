"""Gradients from before a step, to which a closure must not add.

The second pass starts without them, so both passes of a step would be of different losses. They are looked for in a few
small parameters only, and without waiting for the device, because the search is made in every step.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_bench.optim.gradients import local, real

#: Most elements that a parameter may have for its gradient to be compared from step to step.
_SMALL_NUMEL = 4096


class LeftoverGradient:
    """A parameter's gradient as the previous step left it in `.grad`."""

    def __init__(self, parameter: Tensor, gradient: Tensor):
        self.parameter = parameter
        self.gradient = local(gradient)
        self.version = self.gradient._version

    def unchanged(self) -> bool:
        """Return True if nothing was added to the gradient, and no other put in its place."""
        present = self.parameter.grad
        return present is not None and local(present) is self.gradient and self.gradient._version == self.version


#: The gradients of small parameters after a step.
Leftovers = dict[Tensor, LeftoverGradient]


@dataclass
class AccumulatedGradient:
    """A gradient that was computed before a step, outside its closure."""

    parameter: Tensor
    gradient: Tensor
    nonzero: Tensor  #: True if any element is not 0: a boolean scalar on the gradient's device.

    def put_back(self) -> None:
        """Put the gradient into `.grad`, to see whether a closure clears it or adds to it."""
        self.parameter.grad = self.gradient

    def refuse_if_added_to(self) -> None:
        """Check that the closure removed the gradient, or replaced it; one of 0 may stay.

        Raises:
            ValueError: the closure added to the gradient, as in an accumulation outside the closure.
        """
        if self.parameter.grad is not self.gradient:
            return
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()  # values cannot be read then
        if not capturing and self.nonzero:
            raise ValueError(
                "the closure adds to gradients that were there before step(closure), and the second pass starts "
                "without them: begin the closure with zero_grad(set_to_none=True), and accumulate inside it (not by a "
                "framework's accumulate_grad_batches), or step by hand, with first_step() and second_step()"
            )


def find_leftovers(parameters: list[Tensor]) -> Leftovers:
    """Return the gradients of small parameters that a step has left in `.grad`."""
    return {p: LeftoverGradient(p, p.grad) for p in _small(parameters) if p.grad is not None}


def find_accumulated(parameters: list[Tensor], leftovers: Leftovers) -> AccumulatedGradient | None:
    """Return a gradient computed since the previous step; None if there is none, and in compiled code.

    Args:
        leftovers: what `find_leftovers` returned after the previous step.
    """
    if torch.compiler.is_compiling():
        return None
    for p in _small(parameters):
        if p.grad is not None and not (p in leftovers and leftovers[p].unchanged()):
            return AccumulatedGradient(p, p.grad, real(p.grad).any())
    return None


def _small(parameters: list[Tensor]) -> Iterable[Tensor]:
    """Return parameters whose gradients are cheap to compare: the small ones, or else the smallest."""
    return [p for p in parameters if p.numel() <= _SMALL_NUMEL] or [min(parameters, key=Tensor.numel)]
