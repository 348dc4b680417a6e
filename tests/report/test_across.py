"""Tests of comparisons across studies: their averages, studies that share data, and the forest plot."""

import math

import pytest

pytest.importorskip("matplotlib")

from sam_bench.report.across import AVERAGE, Data, across, as_frame, as_markdown, false_claims, independent_groups
from sam_bench.report.comparison import Comparison
from sam_bench.report.cost import Cost
from sam_bench.report.drawing import VERDICT_COLORS
from sam_bench.report.forest import forest
from sam_bench.report.rows import Row
from sam_bench.report.table import Findings

#: The deviation of each seed's test error from its row's mean.
NOISE = {"SGD": [0.1, -0.1, 0.2, -0.2], "SAM": [-0.1, 0.1, 0.1, -0.1], "GSAM": [0.0, 0.2, -0.1, -0.1]}


def findings(gain: float, draw: str = "0", crop: bool = False, margin: float = 1, seeds: int = 4) -> Findings:
    """Return a study in which SAM is better than SGD by a gain, and GSAM worse than SAM by half a point.

    Args:
        gain: SGD's mean test error minus SAM's.
        draw: the digest of the data.
        crop: the images are cropped and flipped.
    """
    means = {"SGD": 50.0, "SAM": 50 - gain, "GSAM": 50.5 - gain}
    config = {
        "optimizer": {}, "trainer": {"epochs": 3}, "model": {"name": "resnet8"},
        "data": {"crop": crop, "flip": crop, "cutout": False},
    }  # fmt: skip

    rows = []
    for title, mean in means.items():
        runs = [
            {
                "method": title.lower(), "seed": seed, "status": "finished", "test_error": mean + NOISE[title][seed],
                "passes": 3 if title == "SGD" else 6, "device": "cpu", "dataset_sha256": draw, "history": {},
                "config": config,
            }
            for seed in range(seeds)
        ]  # fmt: skip
        rows.append(Row(title, tuple(runs)))

    sgd, sam, gsam = rows
    planned = [(sam, sgd), (gsam, sam)]
    comparison = Comparison.of(rows, dict.fromkeys(rows, (sgd,)), Cost(), sam, planned, margin=margin)
    return Findings(tuple(rows), (), comparison, Cost(), sgd)


#: Three studies with data of their own, in which SAM gains 4, 2 and 0 points.
STUDIES = {"a": findings(4), "b": findings(2, "1"), "c": findings(0, "2")}


def test_average_is_over_independent_studies():
    sam, gsam = across(STUDIES)
    assert (sam.title, gsam.title) == ("SAM − SGD at equal epochs", "GSAM − SAM")

    assert sam.pooled.mean == pytest.approx(-2) and sam.pooled.studies == sam.draws == 3
    assert sam.pooled.scatter == pytest.approx(2, abs=0.05)  # the standard deviation of 4, 2 and 0
    assert sam.pooled.verdict == "undecided"

    assert gsam.pooled.mean == pytest.approx(0.5) and gsam.pooled.scatter == 0
    assert gsam.pooled.verdict == "worse"


def test_studies_with_same_data_count_once():
    repeated = across(STUDIES | {"again": findings(6)})[0]
    assert repeated.pooled.studies == repeated.draws == 3
    assert repeated.pooled.mean == pytest.approx((-5 - 2 - 0) / 3, abs=0.01)


def test_studies_with_other_augmentation_are_independent():
    augmented = across(STUDIES | {"augmented": findings(6, crop=True)})[0]
    assert (augmented.pooled.studies, augmented.draws) == (4, 3)


def test_mean_of_studies_with_same_data_has_half_variance():
    gsam = across(STUDIES)[1]
    error = gsam.cells["a"].estimate.error
    assert gsam.pooled.error == pytest.approx(error / math.sqrt(3))

    gsam_repeated = across(STUDIES | {"again": findings(4)})[1]
    weights = 2 / error**2 + 2 / error**2  # two studies, and one of half the variance
    assert gsam_repeated.pooled.error == pytest.approx(1 / math.sqrt(weights))


def test_groups_are_joined_by_any_common_draw():
    def data_of(draws: str, network: str = "resnet8") -> Data:
        return Data(frozenset(draws), (network, False))

    data = {
        "one": data_of("0"),
        "other": data_of("1"),
        "ten": data_of("0123"),
        "apart": data_of("9"),
        "large": data_of("0", "wrn"),
    }
    groups = independent_groups(data)
    assert sorted(map(sorted, groups)) == [["apart"], ["large"], ["one", "other", "ten"]]


def test_other_margins_and_few_seeds_are_not_averaged():
    lines = across(STUDIES | {"large": findings(9, "3", margin=0.2), "few": findings(9, "4", seeds=2)})
    assert lines[0].pooled.mean == pytest.approx(-2)
    assert all(name in lines[0].cells for name in ("large", "few"))


def test_two_studies_have_no_average():
    lines = across({name: STUDIES[name] for name in "ab"})
    assert [line.pooled for line in lines] == [None, None]
    assert as_markdown(lines).splitlines()[2].split("|")[-3:-1] == [f" {'–':<20} ", f" {'–':<25} "]
    assert forest(lines, {"a": "A", "b": "B"}) is None


def test_frame_has_studies_and_average():
    frame = as_frame(across(STUDIES))
    assert list(frame["study"]) == ["a", "b", "c", AVERAGE] * 2
    averages = frame[frame["study"] == AVERAGE]
    assert list(averages["independent_studies"]) == [3, 3]
    assert list(averages["difference"]) == pytest.approx([-2, 0.5], abs=0.01)


def test_false_claims_are_counted_by_family():
    """Check 5 % for each family: planned comparisons and GSAM − SGD of each study, and the two averages."""
    assert false_claims(STUDIES, across(STUDIES)) == pytest.approx(0.05 * (3 * 2 + 2))


def test_forest_shows_verdicts_margin_and_average():
    figure = forest(across(STUDIES), {"a": "Study A", "b": "Study B", "c": "Study C"})
    sam, gsam = figure.axes
    colors = {line.get_ydata()[0]: line.get_markerfacecolor() for line in sam.lines if line.get_marker() == "o"}
    assert colors == {0: VERDICT_COLORS["better"], 1: VERDICT_COLORS["better"], 2: VERDICT_COLORS["within the margin"]}

    band, diamond = sam.patches
    assert (band.get_x(), band.get_width()) == (-1, 2)
    assert diamond.get_xy()[1][0] == pytest.approx(-2, abs=0.01)

    assert [label.get_text() for label in sam.get_yticklabels()] == ["Study A", "Study B", "Study C", AVERAGE]
    assert gsam.get_xlabel().startswith("better ←") and gsam.get_xlabel().endswith("→ worse")
