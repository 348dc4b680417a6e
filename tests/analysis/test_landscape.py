"""Tests of slices of the loss along filter-normalised directions."""

import pytest
import torch

from sam_bench.analysis.landscape import filter_normalised, line, plane
from tests.analysis.problem import make_objective, plain_loss


def test_direction_has_the_norms_of_the_filters():
    objective = make_objective()
    w = objective.weights
    direction, weights = objective.split(filter_normalised(objective, w, 0)), objective.split(w)

    for name in ("0.weight", "6.weight"):
        for of_direction, of_weights in zip(direction[name], weights[name], strict=True):
            assert of_direction.norm().item() == pytest.approx(of_weights.norm().item(), rel=1e-6)
    for name in ("1.weight", "1.bias", "6.bias"):
        assert not direction[name].any()


def test_direction_scales_with_each_filter():
    """Networks whose filters differ in scale can be compared (Li et al., 2018, figure 3)."""
    objective = make_objective()
    w = objective.weights
    scaled = w.clone()
    objective.split(scaled)["0.weight"][1] *= 7

    before, after = (objective.split(filter_normalised(objective, at, 0))["0.weight"] for at in (w, scaled))
    torch.testing.assert_close(after[1], 7 * before[1])
    torch.testing.assert_close(after[0], before[0])


def test_direction_depends_on_seed():
    objective = make_objective()
    direction, same_seed, other_seed = (filter_normalised(objective, objective.weights, seed) for seed in (0, 0, 1))
    assert torch.equal(direction, same_seed) and not torch.equal(direction, other_seed)


def test_line_and_plane_equal_plain_losses():
    objective = make_objective()
    w = objective.weights
    first, second = (filter_normalised(objective, w, seed) for seed in (0, 1))
    steps = [-1.0, 0.0, 0.5]

    progress = []
    values = line(objective, w, first, steps, progress.append)
    assert [value.loss for value in values] == pytest.approx([plain_loss(w + a * first).item() for a in steps])
    assert progress == [1, 2, 3]

    progress.clear()
    rows = plane(objective, w, (first, second), steps, progress.append)
    for b, row in zip(steps, rows, strict=True):
        expected = [plain_loss(w + a * first + b * second).item() for a in steps]
        assert [value.loss for value in row] == pytest.approx(expected)
    assert progress == list(range(1, 10))


def test_line_reestimates_statistics_at_every_point():
    objective = make_objective("reestimated")
    w = objective.weights
    direction = torch.ones_like(w)

    values = line(objective, w, direction, [0.0, 0.5, 1.0])

    assert values == [objective.value(w), objective.value(w + 0.5), objective.value(w + 1)]
    assert values != line(make_objective(), w, direction, [0.0, 0.5, 1.0])
