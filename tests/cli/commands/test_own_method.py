"""Tests of tuning and comparing a method, a preset and a study of the user's own."""

import re

import pandas as pd
import pytest
import yaml

from sam_bench.cli.commands import study, tune
from tests.cli.commands.conftest import TWO_STEPS
from tests.conftest import everything_below

METHOD = """
from sam_bench import SAM
from sam_bench.plugins import plugin

class HalfSAM(SAM):
    pass

HALF_SAM = plugin(HalfSAM, "half_sam", title="HalfSAM", summary="half of it", paper="mine")
"""
PRESET = """# @package _global_
defaults: [smoke]
trainer: {epochs: 1}
"""
RANGES = "half_sam: {optimizer.rho: [0.01, 0.1], optimizer.base.weight_decay: null}\n"
STUDY = """
title: mine
experiment: short
seeds: [0, 1]
baselines: [SAM]
reference: SAM
planned: [[HalfSAM, SAM]]
note: ""
rows:
  SAM: optimizer=sam
  HalfSAM: plugin=half_sam.py optimizer=half_sam
"""


def test_own_method_is_tuned_and_compared(forked, folder, plugins_for_now):
    for name in ("experiment", "study"):
        (folder / "mine" / name).mkdir(parents=True)
    (folder / "half_sam.py").write_text(METHOD)
    (folder / "mine/experiment/short.yaml").write_text(PRESET)
    (folder / "mine/tune.yaml").write_text(RANGES)
    (folder / "mine/study/mine.yaml").write_text(STUDY)

    search = ["--config-dir", "mine", "--experiment", "short", "--methods", "half_sam,sam", "--trials", "2"]
    tune.main([*search, *TWO_STEPS, "plugin=half_sam.py"])
    assert everything_below(folder / "mine/tuned") == [
        "short_half_sam.yaml", "short_sam.yaml", "short_tuning.csv", "short_tuning.md"
    ]  # fmt: skip
    values = (folder / "mine/tuned/short_half_sam.yaml").read_text()
    assert f"the best of 2 trials with {' '.join(TWO_STEPS)}, by" in values
    assert "weight_decay" not in values
    assert "## HalfSAM" in (folder / "mine/tuned/short_tuning.md").read_text()

    # The study takes the tuned values.
    study.main(["mine", "--config-dir", "mine", *TWO_STEPS])
    table = pd.read_csv(folder / "results/short/table.csv")
    assert list(table["row"]) == ["SAM", "HalfSAM"]
    files = [folder / f"mine/tuned/short_{name}.yaml" for name in ("sam", "half_sam")]
    assert list(table["rho"]) == [yaml.safe_load(file.read_text())["optimizer"]["rho"] for file in files]


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        (None, "half_sam has no search ranges: write tune.yaml in a folder of your own"),
        ("half_sam: [optimizer.rho]", "must have lines such as sam: {optimizer.rho: [least, greatest]}"),
        ("half_sam: [0.1", "not valid YAML"),
    ],
)
def test_own_method_without_ranges_is_refused(folder, plugins_for_now, ranges, reason):
    (folder / "half_sam.py").write_text(METHOD)
    if ranges is not None:
        (folder / "tune.yaml").write_text(ranges)
    search = ["--config-dir", ".", "--experiment", "smoke", "--methods", "half_sam", "plugin=half_sam.py"]
    with pytest.raises(SystemExit, match=re.escape(reason)):
        tune.main(search)
    assert not (folder / "runs").exists()
