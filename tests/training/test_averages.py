"""When the means of weights begin."""

from fractions import Fraction

import pytest
from torch import nn

from sam_bench.config.schema import AveragingConfig
from sam_bench.training.averages import Averages


@pytest.mark.parametrize(("start", "epochs"), [("0.5", 3), ("0.75", 8), ("0.7", 180), ("0.57", 100), ("0.29", 100)])
def test_a_mean_begins_with_the_first_epoch_after_its_start(start, epochs):
    averages = Averages(AveragingConfig(name="swa", starts=[float(start)]), nn.Linear(1, 1), epochs)
    (average,) = averages.by_name.values()
    counts = []
    for done in range(1, epochs + 1):
        averages.after_epoch(done)
        counts.append(average.count)
    assert counts.index(1) + 1 == int(Fraction(start) * epochs) + 1
    assert counts[-1] == epochs - int(Fraction(start) * epochs)
