"""Tests of estimated training times, from a benchmark and from a GPU's peak speed."""

import json

import pytest

from sam_bench.report.estimate import GIGAFLOP, LAUNCHES, PEAK, SHARE, Estimate, not_run
from sam_bench.report.published import PUBLISHED
from sam_bench.report.table import read_records
from tests.conftest import ROOT

ESTIMATE = Estimate(json.loads((ROOT / "results" / "benchmark" / "amd-epyc-2-threads.json").read_text()))


def test_seconds_follow_rate_and_operations():
    rate = ESTIMATE.rates["wrn16_8"]
    assert 40 < rate < 50  # images a second in the table of docs/cost.md: 46
    assert ESTIMATE.seconds("wrn16_8", 1000) == pytest.approx(1000 / rate)
    assert ESTIMATE.seconds("wrn28_10", 1000) == pytest.approx(1000 / rate * GIGAFLOP["wrn28_10"] / GIGAFLOP["wrn16_8"])


def test_estimate_is_near_measured_seconds():
    ratios = ESTIMATE.over_measured(read_records(ROOT / "results" / "measured" / "quick" / "records", "val"))
    assert len(ratios) > 20 and ratios == sorted(ratios)
    assert 0.8 < ratios[len(ratios) // 2] < 1.2
    assert ESTIMATE.over_measured([]) == []


def test_not_run_lists_commands_and_hours():
    lines = not_run(ESTIMATE).splitlines()
    assert len(lines) == 2 + len(PUBLISHED)
    assert len(not_run(ESTIMATE, [("sgd", "wrn22_8")]).splitlines()) == len(lines) - 1

    # A large network takes its operations at a share of the GPU's peak.
    sgd = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert sgd[:2] == ["SGD on wrn22_8", "`python -m sam_bench experiment=sam_example optimizer=sgd`"]
    operations = 3e9 * 4.908 * 128 * 391 * 200 * 3
    low, high = (operations / (PEAK["H200"] * share) / 3600 for share in reversed(SHARE))
    assert sgd[3] == f"{low:.1f} – {high:.1f}"

    # A small network takes its kernel launches.
    sam = next(line for line in lines if "SAM on resnet20" in line)
    assert f"| {2 * 391 * 200 * 3 * LAUNCHES / 3600:.1f} " in sam
