"""The sharpness of the loss around solutions, and tables of its correlation with the test error.

It reads what the command analyse has measured. Nothing here is computed from weights, and torch is not needed.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sam_bench.errors import StateError
from sam_bench.report.markup import markdown
from sam_bench.report.rows import Record, Row, distinct, settings_of, title_of
from sam_bench.report.stats import Correlation, correlation_across, correlation_within, t_interval
from sam_bench.runs.files import write_atomically

#: The names of measures at a radius ρ, or at a σ, in tables and figures.
FAMILIES = {
    "one_step": "worst case (one step), ρ {}",
    "ascent": "worst case (ascent), ρ {}",
    "m_sharpness": "m-sharpness, ρ {}",
    "adaptive_one_step": "adaptive worst case (one step), ρ {}",
    "adaptive_ascent": "adaptive worst case (ascent), ρ {}",
    "adaptive_m_sharpness": "adaptive m-sharpness, ρ {}",
    "average": "average case, σ {}",
    "adaptive_average": "adaptive average case, σ {}",
}

#: The prefix of measures taken with the BatchNorm statistics of each batch.
BATCH = "batch_"

#: Settings in which runs of one family may differ.
RADIUS = ("optimizer.rho", "optimizer.rho_min")

#: What figures show: of each of these groups, the first measure that exists.
SHOWN = (
    ("eigenvalue",),
    ("ascent", "one_step"),
    ("adaptive_ascent", "adaptive_one_step"),
    ("average",),
    (f"{BATCH}eigenvalue",),
    (f"{BATCH}m_sharpness",),
)

#: Replaces an infinite rise of the loss, so that it has a rank and a finite mean.
HIGHEST = 1e100

#: The names of measures without a radius, in tables and figures.
PLAIN = {
    "loss": "training loss",
    "error": "training error %",
    "weight_norm": "‖w‖",
    "gradient_norm": "‖∇L‖",
    "trace": "trace",
}


@dataclass(frozen=True)
class Solution:
    """A finished run, and what was measured around its weights.

    Args:
        title: the title of its row.
        family: the settings that it shares with runs that differ only in seed and radius, as text.
        split: the images of the error: "test", or "val" for held-out images.
        error: the error of the measured weights, in percent.
        measures: values by their names in `sam_bench.analysis.measure`, prefixed with `BATCH` if it applies; NaN if
            unknown.
    """

    run_id: str
    title: str
    method: str
    family: str
    rho: float | None
    seed: int
    split: str
    error: float
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Landscape:
    """A slice of the loss through one solution or two.

    Args:
        kind: "line", "plane", or "between" two solutions.
        titles: the titles of the solutions' rows.
        seeds: the seeds of the solutions.
        steps: the steps along each direction.
        losses, errors: nats and percent at each step; a plane has a row for each step along the second direction.
    """

    kind: str
    titles: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    losses: Any
    errors: Any


class Correlations(NamedTuple):
    """Rank correlations of a measure with the test error.

    Args:
        across: correlation of the rows' means.
        radii: correlation of a method's means at its radii, averaged over methods; runs on held-out images count as
            methods of their own.
        seeds: correlation of a row's seeds, averaged over rows.
    """

    across: Correlation
    radii: Correlation
    seeds: Correlation


@dataclass(frozen=True)
class Sharpness:
    """The sharpness measured of an experiment's solutions.

    Args:
        solutions: solutions of runs with a test error.
        held_out: solutions of runs with an error on held-out images, such as tuning runs, which have many radii.
        landscapes: slices of the loss.
        probed: records of runs whose sharpness was measured while they trained.
    """

    solutions: tuple[Solution, ...]
    held_out: tuple[Solution, ...] = ()
    landscapes: tuple[Landscape, ...] = ()
    probed: tuple[Record, ...] = ()

    @property
    def names(self) -> list[str]:
        """Return the names of all measures, without those of standard errors."""
        names = distinct(name for solution in self.solutions for name in solution.measures)
        return [name for name in names if not name.endswith("_se")]

    def main_names(self, prefix: str = "") -> list[str]:
        """Return one measure of each kind; of a kind with several radii, the middle one.

        Args:
            prefix: `BATCH` for measures with the statistics of each batch.
        """
        names = [prefix + name for name in ("eigenvalue_1", "trace")]
        for family in FAMILIES:
            at_radii = [name for name in self.names if name.rpartition("_")[0] == prefix + family]
            names += at_radii[len(at_radii) // 2 :][:1]
        names += [prefix + name for name in ("gradient_norm", "loss")]
        return [name for name in names if name in self.names]

    def shown_names(self) -> list[str]:
        """Return the measures that figures show: greatest eigenvalue, worst and average case, m-sharpness."""
        shown = []
        names = self.main_names() + self.main_names(BATCH)
        for families in SHOWN:
            shown += [name for family in families for name in names if name.rpartition("_")[0] == family][:1]
        return shown

    @cached_property
    def correlations(self) -> dict[str, Correlations]:
        """Return the rank correlations of each measure with the test error."""
        return {name: correlations_of((*self.solutions, *self.held_out), name) for name in self.names}

    def titles(self) -> list[str]:
        """Return the titles of the solutions' rows, in order."""
        return distinct(solution.title for solution in self.solutions)


def read_sharpness(
    folder: Path, records: Sequence[Record], rows: Sequence[Row], held_out: Sequence[Row] = ()
) -> Sharpness:
    """Read what the command analyse measured of an experiment's runs.

    Runs with averaged weights are left out: the weights that they have trained belong to another row too.

    Args:
        folder: the folder with the subfolders `analysis` and `landscape`.
        records: records of runs on the test set.
        rows: the rows of the experiment's table, and further ones.
        held_out: rows of runs on held-out images.

    Raises:
        StateError: a file cannot be read, belongs to an earlier run of the same name, or was measured with other
            settings than the rest.
    """
    runs = {record["run_id"]: record for record in (*records, *(run for row in held_out for run in row.runs))}
    titles = _titles_by_run(rows) | _titles_by_run(held_out)
    order = {title: place for place, title in enumerate(distinct(titles.values()))}

    # `settings` has, for each split and prefix, one run for each kind of settings: more than one kind is an error.
    measured: dict[str, dict[str, float]] = {}
    settings: dict[tuple[str, str], dict[str, str]] = {}
    for path in sorted((folder / "analysis").glob("*.json")):
        analysis = _read(path)
        (run_id,) = analysis["run_ids"]
        if (run := _analysed_run(analysis, run_id, runs, path)) is None or run["averaged"]:
            continue

        prefix = BATCH if analysis["settings"].get("batchnorm") == "batch" else ""
        kind = json.dumps(
            [analysis.get("schema_version"), analysis["settings"], analysis["images_sha256"]], sort_keys=True
        )
        settings.setdefault((run["config"]["data"]["split"], prefix), {}).setdefault(kind, run_id)

        for name, value in analysis["measures"].items():
            if prefix and name == "weight_norm":
                continue  # the same with any statistics
            measured.setdefault(run_id, {})[prefix + name] = math.nan if value is None else float(value)

    # Every solution has all measures, those with batch statistics last; what was not measured is NaN.
    names = distinct(name for measures in measured.values() for name in measures)
    unknown = dict.fromkeys(sorted(names, key=lambda name: name.startswith(BATCH)), math.nan)
    solutions = [
        Solution(
            run_id,
            titles[run_id],
            (run := runs[run_id])["method"],
            json.dumps({key: value for key, value in settings_of(run).items() if key not in RADIUS}, sort_keys=True),
            run["config"]["optimizer"].get("rho"),
            run["seed"],
            run["config"]["data"]["split"],
            run["test_error"],
            unknown | measures,
        )
        for run_id, measures in measured.items()
    ]

    for kinds in settings.values():
        if len(kinds) > 1:
            raise StateError(
                f"{folder / 'analysis'} has measures taken with {len(kinds)} kinds of settings, such as those of the "
                f"runs {' and '.join(kinds.values())}. They cannot be compared: move all but one kind away"
            )

    landscapes = []
    for path in sorted((folder / "landscape").glob("*.json")):
        analysis = _read(path)
        through = [_analysed_run(analysis, run_id, runs, path) for run_id in analysis["run_ids"]]
        if None not in through:
            landscapes.append(
                Landscape(
                    analysis["settings"]["kind"],
                    tuple(titles[run["run_id"]] for run in through),
                    tuple(run["seed"] for run in through),
                    tuple(analysis["steps"]),
                    analysis["losses"],
                    analysis["errors"],
                )
            )

    solutions.sort(key=lambda solution: (order[solution.title], solution.seed))
    tested, held_out_solutions = (tuple(s for s in solutions if s.split == split) for split in ("test", "val"))
    landscapes.sort(key=lambda landscape: ([order[title] for title in landscape.titles], landscape.seeds))
    probed = [record for record in records if "analysis" in record]
    return Sharpness(tested, held_out_solutions, tuple(landscapes), tuple(probed))


def measure_title(name: str) -> str:
    """Return a measure's name in tables and figures."""
    if name.startswith("eigenvalue_"):
        return f"λ{''.join('₀₁₂₃₄₅₆₇₈₉'[int(digit)] for digit in name.removeprefix('eigenvalue_'))}"
    if name.startswith(BATCH):
        return f"{measure_title(name.removeprefix(BATCH))}, batch statistics"
    family, _, value = name.rpartition("_")
    return PLAIN.get(name) or FAMILIES[family].format(value)


def as_frame(sharpness: Sharpness) -> pd.DataFrame:
    """Return a line for each solution, with all of its measures."""
    return pd.DataFrame(
        [
            {"row": s.title, "method": s.method, "rho": s.rho, "seed": s.seed, "split": s.split, "test_error": s.error}
            | {"run_id": s.run_id}
            | dict(s.measures)
            for s in (*sharpness.solutions, *sharpness.held_out)
        ]
    )


def correlations_of(solutions: Sequence[Solution], name: str) -> Correlations:
    """Return a measure's rank correlations with the error; solutions on held-out images count over radii only."""
    rows: dict[str, list[tuple[float, float]]] = {}
    radii: dict[str, dict[float | None, list[tuple[float, float]]]] = {}
    for solution in solutions:
        value = solution.measures.get(name, math.nan)
        if not math.isnan(value):
            point = min(value, HIGHEST), solution.error
            radii.setdefault(solution.family, {}).setdefault(solution.rho, []).append(point)
            if solution.split == "test":
                rows.setdefault(solution.title, []).append(point)

    means = {family: [_mean(points) for points in by_radius.values()] for family, by_radius in radii.items()}
    return Correlations(correlation_across(rows), correlation_within(means), correlation_within(rows))


def tables(sharpness: Sharpness, experiment: str, about: str) -> str:
    """Return the page of an experiment's sharpness, in Markdown."""
    parts = [
        f"# {experiment}: sharpness",
        f"{about} The test error is the mean over the seeds ± half of Student's 95 % interval, a measure the median, "
        "with the least and the greatest. The loss is the cross-entropy on training images, in nats, and sharpness its "
        "rise; λ₁ and the trace are the Hessian's. Worst cases are the worst that was found: there may be worse. Rows "
        "of averaged weights are left out: what they have trained is another row's.",
        _table(sharpness, sharpness.main_names()),
        *_with_batch_statistics(sharpness),
        "## Does it go with the test error?",
        markdown(*correlation_table(sharpness, sharpness.names)),
        "Spearman's rank correlations with the test error, with 95 % intervals of a bootstrap, not corrected for their "
        "number, and none where all are in order: across rows of their means, drawing rows, one method at several "
        "settings being several rows; over the radii of a method, of the means at each, drawing radii, and averaged "
        "over the methods; over the seeds of a row, drawing seeds, and averaged over the rows. Methods and rows with "
        f"fewer than four are left out.{about_held_out(sharpness)}",
    ]

    return "\n\n".join(part for part in parts if part) + "\n"


def _with_batch_statistics(sharpness: Sharpness) -> list[str]:
    """Return the part on measures with the statistics of each batch, under a heading; empty if there are none."""
    if not (names := sharpness.main_names(BATCH)):
        return []
    return [
        "## With the BatchNorm statistics of each batch, as in training",
        "Above, BatchNorm normalises with the running statistics, whatever the weights are moved to, as in evaluation. "
        "m-sharpness is the mean over batches of each batch's own rise by one step of its own, what SAM adds to the "
        "loss.",
        _table(sharpness, names),
    ]


def _table(sharpness: Sharpness, names: Sequence[str]) -> str:
    """Return the Markdown table of some measures, with a line for each row."""
    cells = []
    for title in sharpness.titles():
        solutions = [solution for solution in sharpness.solutions if solution.title == title]
        values = [_median_in_words([solution.measures[name] for solution in solutions]) for name in names]
        cells.append([title, str(len(solutions)), _mean_in_words([s.error for s in solutions]), *values])

    headings = [measure_title(name.removeprefix(BATCH)) for name in names]
    return markdown(["row", "seeds", "test error %", *headings], cells)


def about_held_out(sharpness: Sharpness) -> str:
    """Return a sentence on the runs on held-out images, with a space before it; "" if there are none."""
    solutions = [solution for solution in sharpness.held_out if solution.rho is not None]
    if not solutions:
        return ""
    methods = distinct(title_of(solution.method) for solution in solutions)
    return f" Over radii {len(solutions)} runs of {', '.join(methods)} count with their errors on held-out images."


def write_sharpness(sharpness: Sharpness, experiment: str, folder: Path, about: str) -> None:
    """Write `sharpness.csv`, a line for each solution, and `sharpness.md`, a line for each row and each measure."""
    write_atomically(folder / "sharpness.csv", as_frame(sharpness).to_csv(index=False).encode())
    write_atomically(folder / "sharpness.md", tables(sharpness, experiment, about).encode())


def correlation_table(sharpness: Sharpness, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and cells of a table with the correlations of some measures with the test error.

    The last column has what a rank correlation cannot show: errors may be least in the middle.
    """
    headings = ["measure", "across rows", "rows", "over radii", "methods", "over seeds", "rows"]
    cells = []
    for name in names:
        correlations = sharpness.correlations[name]
        line = [measure_title(name)]
        for each in correlations:
            line += [in_words(each), str(each.groups)]
        cells.append([*line, _thirds(sharpness, name)])
    return [*headings, "mean error % of the flattest, middle and sharpest third of the rows"], cells


def _thirds(sharpness: Sharpness, name: str) -> str:
    """Return the mean test errors of the rows in thirds, from the flattest; "–" if the correlation is not known."""
    if math.isnan(sharpness.correlations[name].across.value):
        return "–"
    rows = [[s for s in sharpness.solutions if s.title == title] for title in sharpness.titles()]
    known = [[s for s in row if not math.isnan(s.measures[name])] for row in rows]
    means = sorted(_mean([(s.measures[name], s.error) for s in row]) for row in known if row)
    return ", ".join(f"{np.mean([error for _, error in third]):.1f}" for third in np.array_split(means, 3))


def in_words(correlation: Correlation) -> str:
    """Return a correlation with its interval, or "in perfect order", where there is none; "–" if it is not known."""
    if math.isnan(correlation.value):
        return "–"
    interval = f"{correlation.low:+.2f} to {correlation.high:+.2f}"
    note = "in perfect order" if math.isnan(correlation.low) else interval.replace("-", "−")
    return f"{correlation.value:+.2f}".replace("-", "−") + f" ({note})"


def _analysed_run(analysis: Mapping[str, Any], run_id: str, runs: Mapping[str, Record], path: Path) -> Record | None:
    """Return the record of a run that an analysis covers; None if there is no such record.

    Raises:
        StateError: the record has another test error than the analysed run.
    """
    run = runs.get(run_id)
    if run is not None and run["test_error"] != analysis["test_errors"][analysis["run_ids"].index(run_id)]:
        raise StateError(f"{path} is of an earlier run of the same name: move it away, and analyse again")
    return run


def _titles_by_run(rows: Iterable[Row]) -> dict[str, str]:
    """Return the title of each run's row, by run id; repeated titles get the row's radius or a number behind them."""
    titles: dict[str, str] = {}
    taken: list[str] = []
    for row in rows:
        title = row.title
        if title in taken:
            title += f", ρ {row.rho:g}" if row.rho else f" ({taken.count(title) + 1})"
        taken.append(row.title)

        # A run in several rows keeps the title of the first.
        for run in row.runs:
            titles.setdefault(run["run_id"], title)
    return titles


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return tuple(np.mean(points, axis=0).tolist())


def _mean_in_words(values: Sequence[float]) -> str:
    low, high = t_interval(values)
    return _digits(sum(values) / len(values), 3) + ("" if math.isnan(low) else f" ± {_digits((high - low) / 2, 2)}")


def _median_in_words(values: Sequence[float]) -> str:
    """Return the median, with the least and the greatest of several values; "–" if one is not known."""
    if any(map(math.isnan, values)):
        return "–"
    least, greatest = (_digits(end, 3) for end in (min(values), max(values)))
    return _digits(float(np.median(values)), 3) + (f" ({least} – {greatest})" if len(values) > 1 else "")


def _digits(value: float, count: int) -> str:
    """Return a number with `count` significant digits, or as a whole number without exponent if it has more."""
    return f"{value:,.0f}" if 10**count <= abs(value) < math.inf else f"{value:.{count}g}"


def _read(path: Path) -> dict[str, Any]:
    try:
        analysis: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = analysis["run_ids"], analysis["test_errors"], analysis["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is not an analysis of a run ({error!r}): move it away") from error
    return analysis
