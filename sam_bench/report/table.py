"""The table of an experiment's errors, from its records alone: nothing is trained, and torch is not needed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, Comparison, in_short
from sam_bench.report.cost import Cost
from sam_bench.report.markup import latex, markdown
from sam_bench.report.protocol import protocol
from sam_bench.report.rows import Record, Row, distinct, in_words, own_settings, rows_of, title_of
from sam_bench.report.study import Study, remarks_on_mixtures
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import read_record

MIB = 2**20

#: Prefixes of settings in which a row may differ from its SGD baseline, but for those of the base optimizer.
NOT_OF_ITS_BASE = ("averaging.", "optimizer.", "trainer.epochs")


@dataclass(frozen=True, eq=False)
class Findings:
    """The rows of an experiment, their comparison and their cost.

    Args:
        rows: the rows of the table, in order.
        others: rows of further records, which appear in the CSV file only.
        unit: the row of SGD whose training time is 1.
        about: remarks of the study on itself.
    """

    rows: tuple[Row, ...]
    others: tuple[Row, ...]
    comparison: Comparison
    cost: Cost
    unit: Row | None = None
    about: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Iterable[Record], cost: Cost | None = None) -> "Findings":
        """Return the findings of all records: a row for each configuration, compared with SGD of the same settings."""
        rows = rows_of(records)
        cost = cost or Cost()
        sgd_rows = [row for row in rows if row.method == "sgd" and not row.is_average]
        candidates = {row: [sgd for sgd in sgd_rows if _base_settings(sgd) == _base_settings(row)] for row in rows}
        return cls(tuple(rows), (), Comparison.of(rows, candidates, cost), cost, sgd_rows[0] if sgd_rows else None)

    @classmethod
    def of_study(
        cls,
        study: Study,
        records: Sequence[Record],
        settings: Mapping[str, Mapping[int, Mapping[str, Any]]],
        cost: Cost | None = None,
    ) -> "Findings":
        """Return the findings of a study's rows; all other records form the rows in `others`.

        Args:
            settings: the configuration of each run, by row title and seed.

        Raises:
            StateError: runs of one row, or rows of the table, cannot be compared.
        """
        cost = cost or Cost()
        rows = study.rows_of(records, settings)
        by_title = {row.title: row for row in rows}

        baselines = [by_title[title] for title in study.baselines if title in by_title]
        planned = [
            (by_title[row], by_title[base]) for row, base in study.planned if row in by_title and base in by_title
        ]
        comparison = Comparison.of(
            rows,
            dict.fromkeys(rows, baselines),
            cost,
            by_title.get(study.reference),
            planned,
            len(study.planned),
            study.margin,
        )

        in_table = {(id(run), row.weights) for row in rows for run in row.runs}
        others = []
        for row in rows_of(records):
            if further := tuple(run for run in row.runs if (id(run), row.weights) not in in_table):
                others.append(Row(row.title, further, row.weights))
        return cls(tuple(rows), tuple(others), comparison, cost, by_title.get(study.baselines[0]), _about(study, rows))

    @property
    def records(self) -> list[Record]:
        """Return the records of the table's rows."""
        return [run for row in self.rows for run in row.runs]

    def relative_cost(self, row: Row) -> float:
        """Return a row's training time over that of `unit`; NaN without a unit."""
        return float("nan") if self.unit is None else self.cost(row) / self.cost(self.unit)

    def as_frame(self) -> pd.DataFrame:
        """Return a line for each row, those of the table first, with errors of the last epoch in percent.

        Interval and deviation are NaN for a single seed; seconds and memory are NaN if the devices differ. The column
        `settings` tells rows of one method apart.
        """
        all_rows = [*self.rows, *self.others]
        return pd.DataFrame([self._line(row, all_rows) for row in all_rows])

    def _line(self, row: Row, all_rows: Sequence[Row]) -> dict[str, Any]:
        means = row.means
        low, high = row.interval

        line = {
            "row": row.title if row in self.rows else "",
            "method": row.method,
            "rho": row.rho,
            "weights": row.weights,
            "settings": in_words(own_settings(row, all_rows)),
            "seeds": len(row.errors),
            "diverged": row.diverged,
            "test_error_mean": row.mean,
            "test_error_std": row.std,
            "ci95_low": low,
            "ci95_high": high,
            "best_seed_error": min(row.errors.values(), default=None),
            "worst_seed_error": max(row.errors.values(), default=None),
            "best_epoch_error_mean": means["best_test_error"],
        }
        line |= {key: means[key] for key in ("test_loss", "test_ece", "train_error", "memorised")}
        line |= {key: means[key] for key in ("passes", "skipped_steps")}
        line |= {"cost": self.relative_cost(row), "cost_measured": self.cost.is_measured(row)}
        line |= {key: means[key] for key in ("train_seconds", "images_per_second")}
        line["peak_memory_mib"] = means["peak_memory_bytes"] / MIB
        if row.tta_errors:
            line["test_error_tta_mean"] = row.tta_mean

        for kind in self.comparison.kinds if row in self.rows else ():
            each = self.comparison.at(kind, row)
            key = kind.replace(" ", "_")
            line[f"delta_{key}"] = each and each.mean
            line[f"delta_{key}_low"], line[f"delta_{key}_high"] = each.simultaneous if each else (None, None)
            line[f"delta_{key}_verdict"] = each and each.verdict
        return line

    def for_reading(self) -> tuple[list[str], list[list[str]]]:
        """Return the headings and the cells of the table for readers, which has fewer columns than the CSV file."""
        # The column of equal passes is left out if it repeats that of equal epochs.
        kinds = [kind for kind in (EPOCHS, PASSES, REFERENCE) if kind in self.comparison.kinds]
        at_epochs, at_passes = (self.comparison.baselines[kind] for kind in (EPOCHS, PASSES))
        if PASSES in kinds and all(at_passes.get(row) is at_epochs.get(row) for row in self.rows):
            kinds.remove(PASSES)

        columns = {
            "method": [row.title for row in self.rows],
            "ρ": [_number(row.rho, "g") for row in self.rows],
            "seeds": [f"{len(row.errors)}{row.diverged_in_words}" for row in self.rows],
            f"{self._error} %": [row.error_in_words for row in self.rows],
        }
        if any(row.tta_errors for row in self.rows):
            columns["with test-time augmentation %"] = [row.tta_error_in_words for row in self.rows]
        for kind in kinds:
            differences = [in_short(self.comparison.at(kind, row)) for row in self.rows]
            columns[self.comparison.heading(kind)] = differences

        # Measures that no row has get no column.
        for name, key, form in (
            ("training error %", "train_error", ".1f"), ("memorised %", "memorised", ".1f"),
            ("ECE %", "test_ece", ".2f"), ("passes", "passes", ",.0f"),
        ):  # fmt: skip
            if self.has(key):
                columns[name] = [_number(row.means[key], form) for row in self.rows]
        if any(row.means["skipped_steps"] > 0 for row in self.rows):
            columns["skipped steps"] = [_number(row.means["skipped_steps"], ".2f") for row in self.rows]
        columns["cost"] = [_number(self.relative_cost(row), ".2f") for row in self.rows]
        return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]

    def remarks(self) -> list[str]:
        """Return the remarks needed to read the table: its columns, the hardware, and what differs between rows."""
        records = self.records
        lines = [
            f"{self._error.capitalize()} of the last epoch, mean over the seeds ± half of Student's 95 % interval. "
            + ("ECE: calibration error, 15 bins. " if self.has("test_ece") else "")
            + "Passes: forward-backward passes of one run. Cost: seconds of training over those of SGD."
        ]

        if estimated := distinct(title_of(row.method) for row in self.rows if not self.cost.is_measured(row)):
            lines.append(f"Cost from passes alone, as no benchmark here has it: {', '.join(estimated)}.")
        if self.comparison.differences:
            lines += self.comparison.remarks()
        if len(records) > len(self.rows):
            draws = len({record["dataset_sha256"] for record in records})
            lines.append(f"Draws of images and labels: {draws}. Draws of the tuning: 1.")
        if self.has("train_error"):
            lines.append("Training error: in the last epoch, on the images and labels as they are trained on.")
        if self.has("memorised"):
            lines.append(
                "Memorised: of the training images whose labels are wrong, those that are predicted as labelled, in "
                "the last epoch: with mixup from the mixed images, for MSAM, SAMPa and bSAM at perturbed weights. The "
                "labels of the test set are the true ones; those of held-out images are not."
            )
        if averages := [row for row in self.rows if row.is_average]:
            listed = ", ".join(f"{row.title} ({row.weights})" for row in averages)
            lines.append(
                f"Not of the weights after the last step: {listed}. They are of the mean of the weights over the "
                "epochs from a fraction of the run on (swa), or over the steps with a decay (ema), BatchNorm "
                "statistics re-estimated on the training images."
            )
        if any(record["config"]["optimizer"]["batchnorm"] == "re-estimated" for record in records):
            lines.append(
                "BatchNorm re-estimated: the weights that are evaluated had no pass of their own (MSAM's, SAMPa's and "
                "bSAM's passes are all at perturbed weights, a schedule-free base is evaluated at an average), so the "
                "statistics are those of a pass over the training images before the evaluation, forward only."
            )

        lines += [*self.about, *remarks_on_mixtures(self.rows)]
        changed = sum((record.get("git_commit") or "").endswith("+changes") for record in records)
        if changed:
            lines.append(f"{changed} of {len(records)} runs are of a checkout in which not everything was committed.")
        for device in distinct(f"{record['device']}, {record['precision']}" for record in records):
            lines.append(f"Measured on: {device}.")
        return lines

    @property
    def _error(self) -> str:
        """Return the name of the table's errors."""
        held_out = any(record["config"]["data"]["split"] == "val" for record in self.records)
        return "held-out error" if held_out else "test error"

    def has(self, key: str) -> bool:
        """Return True if any row of the table has this mean."""
        return any(not pd.isna(row.means[key]) for row in self.rows)


def read_records(folder: Path, split: str = "test") -> list[Record]:
    """Return an experiment's records of runs measured on one split, in the order of their file names.

    Raises:
        StateError: a record cannot be read.
    """
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return [record for record in records if record["config"]["data"]["split"] == split]


def write_table(findings: Findings, experiment: str, folder: Path, name: str = "table", about: str = "") -> str:
    """Write the table to `folder` as `.csv` (every column, unrounded), `.md` and `.tex`, and return the Markdown.

    Args:
        name: the stem of the files.
        about: the first paragraph, above the protocol.
    """
    configs = [record["config"] for record in findings.records]
    above = [*([about] if about else []), protocol(configs, experiment)]
    below = findings.remarks()
    headings, cells = findings.for_reading()
    text = "\n\n".join([f"# {experiment}", *above, markdown(headings, cells), *below]) + "\n"

    write_atomically(folder / f"{name}.csv", findings.as_frame().to_csv(index=False).encode())
    write_atomically(folder / f"{name}.md", text.encode())
    write_atomically(folder / f"{name}.tex", latex(headings, cells, above + below).encode())
    return text


def _base_settings(row: Row) -> dict[str, Any]:
    """Return the settings in which SGD must agree with a row to be its baseline."""
    return {
        key: value
        for key, value in row.settings.items()
        if key.startswith("optimizer.base.") or not key.startswith(NOT_OF_ITS_BASE)
    }


def _number(value: float | None, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form)


def _about(study: Study, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return remarks on the runs and rows that a study still lacks, and the study's own note."""
    lines = []
    count, expected = sum(len(row.runs) for row in rows), len(study.rows) * len(study.seeds)
    if count < expected:
        lines.append(f"So far: {count} of the {expected} runs of this study.")
    if missing := [title for title in study.rows if title not in {row.title for row in rows}]:
        lines.append(f"Not run: {', '.join(missing)}.")
    return (*lines, *([study.note] if study.note else []))
