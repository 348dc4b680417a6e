"""Slices of the loss along directions that are normalised filter by filter."""

import pytest
import torch

from sam_bench.analysis.landscape import filter_normalised, line, plane
from tests.analysis.problem import objective, plain_loss


def test_every_filter_of_a_direction_is_as_long_as_that_of_the_weights():
    ours = objective()
    w = ours.weights
    parts, at = ours.split(filter_normalised(ours, w, 0)), ours.split(w)
    for name in ("0.weight", "6.weight"):
        for filter_, of_w in zip(parts[name], at[name], strict=True):
            assert filter_.norm().item() == pytest.approx(of_w.norm().item(), rel=1e-6)
    for name in ("1.weight", "1.bias", "6.bias"):
        assert not parts[name].any()


def test_a_direction_does_not_see_how_the_filters_are_scaled():
    """Else networks of other scales could not be compared (Li et al., figure 3)."""
    ours = objective()
    w = ours.weights
    grown = w.clone()
    ours.split(grown)["0.weight"][1] *= 7
    one, other = (ours.split(filter_normalised(ours, at, 0))["0.weight"] for at in (w, grown))
    torch.testing.assert_close(other[1], 7 * one[1])
    torch.testing.assert_close(other[0], one[0])


def test_seeds_make_directions():
    ours = objective()
    first, again, other = (filter_normalised(ours, ours.weights, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_line_and_a_plane_are_losses_along_their_directions():
    ours = objective()
    w = ours.weights
    first, second = (filter_normalised(ours, w, seed) for seed in (0, 1))
    steps = [-1.0, 0.0, 0.5]
    told = []
    found = line(ours, w, first, steps, told.append)
    assert [each.loss for each in found] == pytest.approx([plain_loss(w + a * first).item() for a in steps])
    assert told == [1, 2, 3]
    rows = plane(ours, w, (first, second), steps, told.append)
    assert told[3:] == list(range(1, 10))
    for b, row in zip(steps, rows, strict=True):
        expected = [plain_loss(w + a * first + b * second).item() for a in steps]
        assert [each.loss for each in row] == pytest.approx(expected)


def test_between_two_solutions_statistics_are_estimated_at_every_point():
    ours = objective("reestimated")
    w, other = ours.weights, ours.weights + 1
    found = line(ours, w, other - w, [0.0, 0.5, 1.0])
    assert found == [ours.value(w), ours.value(w + 0.5), ours.value(other)]
    stored = line(objective(), w, other - w, [0.0, 0.5, 1.0])
    assert stored != found
