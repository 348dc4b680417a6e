"""The loss around a solution, and between two: slices along directions that are normalised filter by filter."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sam_bench.analysis.objective import Objective, Value

Tell = Callable[[int], Any]
"""Told how many points are done."""


def filter_normalised(objective: Objective, w: Tensor, seed: int) -> Tensor:
    """Return a random direction, each filter of it as long as the filter of `w` (Li et al., 2018, arXiv:1712.09913).

    A filter is what makes one output: a row of a linear layer, `weight[i]` of a convolution. Tensors of one dimension,
    biases and what batch normalisation scales by, have no part in it, as in the paper's figures.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(w.numel(), generator=generator, dtype=w.dtype).to(w.device)
    for d, at in zip(objective.split(direction).values(), objective.split(w).values(), strict=True):
        if d.dim() < 2:
            d.zero_()
        else:
            lengths = [each.flatten(1).norm(dim=1) for each in (at, d)]
            d.mul_((lengths[0] / (lengths[1] + 1e-10)).view(-1, *[1] * (d.dim() - 1)))
    return direction


def line(
    objective: Objective, w: Tensor, direction: Tensor, steps: Sequence[float], tell: Tell = lambda done: None
) -> list[Value]:
    """Return what the network does at `w + a · direction` for each `a` of the steps.

    Between two solutions the direction is their difference, and a goes from 0 to 1; their running statistics fit none
    of the points between, so that the objective should re-estimate them.
    """
    found = []
    for done, a in enumerate(steps, start=1):
        found.append(objective.value(w + a * direction))
        tell(done)
    return found


def plane(
    objective: Objective,
    w: Tensor,
    directions: tuple[Tensor, Tensor],
    steps: Sequence[float],
    tell: Tell = lambda done: None,
) -> list[list[Value]]:
    """Return what the network does at `w + a · first + b · second`: a row for each b, in it a value for each a."""
    first, second = directions
    rows = []
    for row, b in enumerate(steps):
        begun = row * len(steps)
        rows.append(line(objective, w + b * second, first, steps, lambda done, begun=begun: tell(begun + done)))
    return rows
