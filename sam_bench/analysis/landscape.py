"""Slices of the loss around a solution or between two, along directions that are normalised filter by filter.

Letters: w are the weights, a and b the coordinates along the first and the second direction.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sam_bench.analysis.objective import Objective, Value

#: A callback that is given the number of finished points.
Tell = Callable[[int], Any]


def filter_normalised(objective: Objective, w: Tensor, seed: int) -> Tensor:
    """Return a random direction whose filters are as long as those of `w` (Li et al., 2018, arXiv:1712.09913).

    A filter is the weights of one output: a row of a linear layer, or `weight[i]` of a convolution. The direction is 0
    in tensors of one dimension (biases, scales of batch normalisation), as in the paper's figures.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(w.numel(), generator=generator, dtype=w.dtype).to(w.device)

    # The parts are views of the direction, which is changed in place.
    for part, weight in zip(objective.split(direction).values(), objective.split(w).values(), strict=True):
        if part.dim() < 2:
            part.zero_()
        else:
            lengths = [x.flatten(1).norm(dim=1) for x in (weight, part)]
            part.mul_((lengths[0] / (lengths[1] + 1e-10)).view(-1, *[1] * (part.dim() - 1)))

    return direction


def line(
    objective: Objective, w: Tensor, direction: Tensor, steps: Sequence[float], tell: Tell = lambda done: None
) -> list[Value]:
    """Return loss and error at `w + a · direction` for each `a` in `steps`.

    For a line between two solutions, the direction is their difference, and a goes from 0 to 1. The running statistics
    of neither fit the points in between, so use an objective that re-estimates them.
    """
    values = []
    for done, a in enumerate(steps, start=1):
        values.append(objective.value(w + a * direction))
        tell(done)
    return values


def plane(
    objective: Objective,
    w: Tensor,
    directions: tuple[Tensor, Tensor],
    steps: Sequence[float],
    tell: Tell = lambda done: None,
) -> list[list[Value]]:
    """Return loss and error at `w + a · first + b · second`: a row for each b, with a value for each a."""
    first, second = directions
    rows = []
    for row, b in enumerate(steps):
        earlier = row * len(steps)
        rows.append(line(objective, w + b * second, first, steps, lambda done, earlier=earlier: tell(earlier + done)))
    return rows
