"""What the page shows: every row of a study with its seeds, and those that were not run with their command."""

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
from tests.report.test_study import OURS, settings, some

STUDY = OURS["noisy40"]


@pytest.fixture(scope="module")
def found():
    history = {"test_error": [None, 51.23456], "train_error": [90.0, 80.0], "train_loss": [2.0, None], "lr": [0.1, 0]}
    history["wrong_label_error"] = [90.0, 75.0]
    changes = {"run_id": "a", "git_commit": "b", "history": history, "epochs": 2}
    records = some("SGD", "SAM", **changes)
    records[-1] |= {"status": "diverged"}
    return Findings.of_study(STUDY, records, settings(STUDY))


@pytest.fixture(scope="module")
def made(found):
    svgs = {name: as_bytes(figure, "svg").decode() for name, figure in draw(found).items()}
    return regime(STUDY, found, svgs, about="A preset.")


def test_payload_is_plain_data(made, found):
    lines = across({STUDY.experiment: found})
    whole = page_payload([made], {"sam_bench": "1"}, lines, FIGURE, 0.25)
    assert whole["across"][0] == {
        "title": "SAM − SGD at equal epochs and passes",
        "cells": [{"value": 0.0, "text": "+0.00", "verdict": None}],
        "average": None,
        "heterogeneity": "–",
    }
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert (whole["false_claims"], whole["forest"][0]["svg"]) == ("0.25", FIGURE)
    assert made["statements"] == [
        {"text": "SAM − SGD at equal epochs and passes: +0.00 points", "verdict": "undecided"}
    ]
    assert made["about"].startswith("A preset. The noisy40 protocol: ")
    assert {figure["name"] for figure in made["figures"]} == {"errors", "curves", "cost"}
    assert all("currentColor" in figure["svg"] and figure["alt"] for figure in made["figures"])


def test_the_page_sorts_by_numbers(made):
    shown = page(page_payload([made], {}))
    values = re.findall(r'<td data-sort="([^"]*)"', shown)
    assert any(values) and all(value == "" or math.isfinite(float(value)) for value in values)


def test_every_row_of_the_study_is_there_run_or_not(made):
    assert [row["title"] for row in made["rows"]] == list(STUDY.rows)
    assert [row["status"] for row in made["rows"]] == [
        "measured" if title in ("SGD", "SAM") else "not run" for title in STUDY.rows
    ]
    keys = [column["key"] for column in made["columns"]]
    measured = [row for row in made["rows"] if row["status"] == "measured"]
    assert all(set(keys) <= row["cells"].keys() for row in measured)
    assert "memorised" in keys and "test_ece" not in keys
    sgd, sam = measured
    assert sgd["cells"]["error"] == {"value": 50.5, "text": "50.50 ± 6.35", "verdict": None}
    assert sam["cells"]["seeds"]["text"] == "1 (+1 diverged)"
    assert sam["cells"]["equal epochs"] == {"value": 0.0, "text": "+0.00", "verdict": None}
    assert sgd["cells"]["reference" if "reference" in keys else "rho"]["text"] == "–"


def test_the_commands_are_of_the_runs(made):
    for row in made["rows"]:
        words = shlex.split(row["command"])
        assert words[:4] == ["python", "-m", "sam_bench", "-m"]
        assert words[-1] == "seed=" + ",".join(map(str, STUDY.seeds))
        for seed in row["seeds"]:
            config = compose(shlex.split(seed["command"])[3:])
            assert config.seed == seed["seed"]
            assert seed["settings"]["optimizer.name"] == config.optimizer.name


def test_histories_say_what_was_memorised(made):
    run = made["rows"][0]["seeds"][0]
    assert run["history"] == {
        "test_error": [None, 51.23456],
        "train_error": [90.0, 80.0],
        "train_loss": [2.0, None],
        "memorised": [10.0, 25.0],
    }
    (sam,) = (row for row in made["rows"] if row["title"] == "SAM")
    assert sam["seeds"][1]["error"] is None
