"""Tests of the data of the results page: a study's rows, run or not, their commands, seeds and histories."""

import json
import math
import re
import shlex

import pytest

pytest.importorskip("matplotlib")

from sam_bench.cli.compose import compose
from sam_bench.report.across import across
from sam_bench.report.figures import as_bytes, draw
from sam_bench.report.page import page
from sam_bench.report.payload import page_payload, regime
from sam_bench.report.table import Findings
from tests.report.page_payload import FIGURE
from tests.report.study_records import OURS, run_settings, runs_of

STUDY = OURS["noisy40"]


@pytest.fixture(scope="module")
def findings():
    """Return the findings of two runs of SGD and two of SAM, the last of which diverged."""
    history = {
        "test_error": [None, 51.23456],
        "train_error": [90.0, 80.0],
        "train_loss": [2.0, None],
        "lr": [0.1, 0],
        "wrong_label_error": [90.0, 75.0],
    }
    records = runs_of("SGD", "SAM", run_id="a", git_commit="b", history=history, epochs=2)
    records[-1] |= {"status": "diverged"}
    return Findings.of_study(STUDY, records, run_settings(STUDY))


@pytest.fixture(scope="module")
def study_data(findings):
    """Return the study's part of the payload."""
    figures = {name: as_bytes(figure, "svg").decode() for name, figure in draw(findings).items()}
    return regime(STUDY, findings, figures, about="A preset.")


def test_payload_is_plain_data(study_data, findings):
    payload = page_payload(
        [study_data], {"sam_bench": "1"}, across({STUDY.experiment: findings}), 0.25, "# Q", {"a.svg": FIGURE}
    )
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert payload["across"][0] == {
        "title": "SAM − SGD at equal epochs and passes",
        "cells": [{"value": 0.0, "text": "+0.00", "verdict": None}],
        "average": None,
        "heterogeneity": "–",
    }
    assert (payload["false_claims"], payload["answers"], payload["figures"]) == ("0.25", "# Q", {"a.svg": FIGURE})


def test_regime_has_statements_text_and_figures(study_data):
    assert study_data["statements"] == [
        {"text": "SAM − SGD at equal epochs and passes: +0.00 points", "verdict": "undecided"}
    ]
    assert study_data["about"].startswith("A preset. The noisy40 protocol: ")
    assert {figure["name"] for figure in study_data["figures"]} == {"errors", "curves"}
    assert all("currentColor" in figure["svg"] and figure["alt"] for figure in study_data["figures"])


def test_page_cells_sort_by_finite_numbers(study_data):
    html = page(page_payload([study_data], {}, [], 0, "# Q", {}))
    values = re.findall(r'<td data-sort="([^"]*)"', html)
    assert any(values) and all(value == "" or math.isfinite(float(value)) for value in values)


def test_regime_has_every_row_run_or_not(study_data):
    assert {row["title"]: row["status"] for row in study_data["rows"]} == {
        title: "measured" if title in ("SGD", "SAM") else "not run" for title in STUDY.rows
    }
    assert [row["title"] for row in study_data["rows"]] == list(STUDY.rows)


def test_measured_rows_have_a_cell_per_column(study_data):
    keys = [column["key"] for column in study_data["columns"]]
    assert "memorised" in keys and "test_ece" not in keys
    sgd, sam = (row["cells"] for row in study_data["rows"] if row["status"] == "measured")
    assert set(keys) <= sgd.keys() and set(keys) <= sam.keys()

    assert sgd["error"] == {"value": 50.5, "text": "50.50 ± 6.35", "verdict": None}
    assert sgd["rho"] == {"value": None, "text": "–", "verdict": None}
    assert sam["seeds"]["text"] == "1 (+1 diverged)"
    assert sam["equal epochs"] == {"value": 0.0, "text": "+0.00", "verdict": None}


def test_commands_make_the_runs(study_data):
    for row in study_data["rows"]:
        words = shlex.split(row["command"])
        assert words[:4] == ["python", "-m", "sam_bench", "-m"]
        assert words[-1] == "seed=" + ",".join(map(str, STUDY.seeds))
        for seed in row["seeds"]:
            config = compose(shlex.split(seed["command"])[3:])
            assert config.seed == seed["seed"]
            assert seed["settings"]["optimizer.name"] == config.optimizer.name


def test_history_has_memorised_labels(study_data):
    assert study_data["rows"][0]["seeds"][0]["history"] == {
        "test_error": [None, 51.23456],
        "train_error": [90.0, 80.0],
        "train_loss": [2.0, None],
        "memorised": [10.0, 25.0],
    }


def test_diverged_seed_has_no_error(study_data):
    (sam,) = (row for row in study_data["rows"] if row["title"] == "SAM")
    assert sam["seeds"][1]["error"] is None
