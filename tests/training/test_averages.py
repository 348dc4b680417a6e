"""Tests of the averages of weights: when they begin, and what they count."""

from fractions import Fraction

import pytest
from torch import nn

from sam_bench.config.optimizer import AveragingConfig
from sam_bench.training.averages import Averages


@pytest.mark.parametrize(("start", "epochs"), [("0.5", 3), ("0.75", 8), ("0.7", 180), ("0.57", 100), ("0.29", 100)])
def test_swa_begins_after_exact_fraction(start, epochs):
    averages = Averages(AveragingConfig(name="swa", starts=[float(start)]), nn.Linear(1, 1), epochs)
    (average,) = averages.by_name.values()
    counts = []
    for done in range(1, epochs + 1):
        averages.after_epoch(done)
        counts.append(average.count)

    first = int(Fraction(start) * epochs)  # in floating point, some of these products are too small
    assert counts.index(1) == first
    assert counts[-1] == epochs - first


def test_averages_count_epochs_or_steps():
    swa = Averages(AveragingConfig(name="swa", starts=(0.0, 0.5, 0.75)), nn.Linear(1, 1), epochs=4)
    for done in (1, 2, 3, 4):
        swa.after_epoch(done)
        swa.after_step()
    assert [average.count for average in swa.by_name.values()] == [4, 2, 1]

    ema = Averages(AveragingConfig(name="ema", decay=0.9), nn.Linear(1, 1), epochs=4)
    ema.after_epoch(1)
    ema.after_step()
    assert ema.by_name["ema 0.9"].count == 1
