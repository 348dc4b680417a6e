"""Tests of test-time augmentation, against six views written out."""

import torch
from torch import nn

from sam_bench.training.test_time import AveragedViews


def test_averaged_views_equal_six_plain_views():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    mirrored_edge = [1, 0, 1, 2, 3, 4, 5, 6, 7, 6]  # rows of an image with one pixel of reflect padding
    views = {}
    for name, first in (("plain", 1), ("up", 0), ("down", 2)):
        rows = mirrored_edge[first : first + 8]
        views[name] = images[:, :, rows][:, :, :, rows]

    weights = {"plain": 0.25, "up": 0.125, "down": 0.125}
    expected = sum(weight * (network(views[name]) + network(views[name].flip(3))) for name, weight in weights.items())

    torch.testing.assert_close(AveragedViews(network)(images), expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(views["plain"], images)
