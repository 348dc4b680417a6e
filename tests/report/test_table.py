"""Tests of the table of an experiment: its files, its columns, its remarks, and the records that it reads."""

import pandas as pd
import pytest

from sam_bench.errors import StateError
from sam_bench.report.table import Findings, read_records, write_table
from tests.report.table_records import record, records, write

#: The Markdown file of `records()`.
GOLDEN = """\
# sam_example

The sam_example protocol: wrn22_8, cifar10, all training images, test split, augmentation crop + flip + cutout, \
normalised, 200 epochs, batch 128, step schedule by the step, warm-up 0, base optimizer sgd, lr 0.1, weight_decay \
0.0005, momentum 0.9, no nesterov, label smoothing 0.1 over others, BatchNorm clean.

| method | ρ    | seeds | test error % | Δ to SGD at equal epochs | ECE % | passes  | cost |
| ------ | ---- | ----- | ------------ | ------------------------ | ----- | ------- | ---- |
| SGD    | –    | 3     | 3.20 ± 0.25  | –                        | 1.50  | 78,200  | 1.00 |
| SAM    | 0.05 | 3     | 2.90 ± 0.25  | −0.30 ± 0.36 undecided   | 1.50  | 156,400 | 2.00 |
| GSAM   | 2    | 1     | 2.50         | −0.75                    | 1.50  | 156,400 | 2.00 |

Test error of the last epoch, mean over the seeds ± half of Student's 95 % interval. ECE: calibration error, 15 bins. \
Passes: forward-backward passes of one run. Cost: seconds of training over those of SGD.

Cost from passes alone, as no benchmark here has it: SAM, GSAM.

Δ: error minus the baseline's, in points (1 or 3 seeds); below 0 is better. ± or brackets: the 95 % interval at which \
all differences of its family hold together.

Verdict, from 3 seeds on: better or worse if the interval excludes 0, else undecided.

Residual standard deviation: 0.07 points, 2 degrees of freedom (error = row + seed).

Draws of images and labels: 1. Draws of the tuning: 1.

Measured on: NVIDIA H200, bf16.
"""


def write_files(entries: list[dict], folder) -> str:
    """Write the table's files to a folder; return the Markdown."""
    return write_table(Findings.of(entries), "sam_example", folder)


# Files


def test_markdown_is_golden(tmp_path):
    assert write_files(records(), tmp_path) == GOLDEN
    assert (tmp_path / "table.md").read_text() == GOLDEN


def test_csv_has_unrounded_columns(tmp_path):
    write_files(records(), tmp_path)
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.columns[:7]) == ["row", "method", "rho", "weights", "settings", "seeds", "diverged"]
    assert table["method"].tolist() == ["sgd", "sam", "gsam"]
    assert table["test_error_mean"].tolist() == pytest.approx([3.2, 2.9, 2.5])
    assert table["delta_equal_epochs"].tolist()[1:] == pytest.approx([-0.3, -0.75])


def test_latex_escapes_symbols(tmp_path):
    write_files(records(), tmp_path)
    text = (tmp_path / "table.tex").read_text()
    assert "\\toprule\n" + r"method & $\rho$ & seeds & test error \% &" in text
    assert r"SAM & 0.05 & 3 & 2.90 $\pm$ 0.25 & $-$0.30 $\pm$ 0.36 undecided &" in text


# Columns and remarks


def test_runs_of_uncommitted_code_are_counted(tmp_path):
    commits = ["a" * 40, "b" * 40 + "+changes", None]
    entries = [entry | {"git_commit": commits[entry["seed"]]} for entry in records()]
    assert "\n\n2 of 7 runs are of a checkout " in write_files(entries, tmp_path)


def test_held_out_errors_are_named_so(tmp_path):
    entries = records()
    for entry in entries:
        entry["config"]["data"]["split"] = "val"
    text = write_files(entries, tmp_path)
    assert "| held-out error % |" in text and "\n\nHeld-out error of the last epoch" in text
    assert "test error" not in text.lower()


def test_skipped_steps_are_shown_if_any(tmp_path):
    assert "skipped" not in write_files(records(), tmp_path)
    with_skipped_steps = record("sam", 5, 3.0, skipped_steps=8)
    assert "skipped steps" in write_files([*records(), with_skipped_steps], tmp_path)


def test_averages_are_remarked(tmp_path):
    averaged = {"swa 0.5": {"test_error": 2.0, "test_loss": 0.1}}
    text = write_files([record("wasam", 0, 3.0, averaged=averaged)], tmp_path)
    assert "| WASAM, swa 0.5 |" in text
    assert "Not of the weights after the last step: WASAM, swa 0.5 (swa 0.5)." in text
    assert "Not of the weights" not in write_files([record("sgd", 0, 3.3)], tmp_path)


def test_unmeasured_columns_are_left_out(tmp_path):
    entries = [{key: value for key, value in entry.items() if key != "test_ece"} for entry in records()]
    text = write_files(entries, tmp_path)
    assert "ECE" not in text and "memorised" not in text and "passes" in text


def test_tta_error_has_a_column_if_measured():
    measured = [record("sgd", seed, 6.8, test_error_tta=error) for seed, error in enumerate((5.8, 6.0, 6.2))]
    findings = Findings.of([*measured, record("sam", 0, 6.5)])
    headings, cells = findings.for_reading()
    column = headings.index("with test-time augmentation %")
    half = 4.302652729911275 * 0.2 / 3**0.5  # Student's 0.975 quantile with two degrees of freedom
    assert [row[column] for row in cells] == [f"6.00 ± {half:.2f}", "–"]
    assert findings.as_frame()["test_error_tta_mean"].tolist()[0] == pytest.approx(6.0)
    assert "with test-time augmentation %" not in Findings.of(records()).for_reading()[0]


# Records


def test_read_records_takes_one_split(tmp_path):
    tuning = record("sam", 7, 1.0)
    tuning["config"]["data"]["split"] = "val"
    write(tmp_path, [*records(), tuning])
    assert len(read_records(tmp_path / "records")) == len(records())
    assert [entry["seed"] for entry in read_records(tmp_path / "records", "val")] == [7]


def test_read_records_refuses_newer_schema(tmp_path):
    write(tmp_path, [record("sam", 0, 3.0, schema_version=99)])
    with pytest.raises(StateError, match="newer"):
        read_records(tmp_path / "records")
