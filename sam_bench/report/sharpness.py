"""How sharp the loss is around solutions, and whether that goes with their test errors: tables, a finding in words.

Reads what scripts/analyse.py has measured; nothing is computed from weights here, and torch is not needed.
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
"""What measures at a radius, or at a σ, are called."""

BATCH = "batch_"
"""How the names of measures begin that were taken with the BatchNorm statistics of each batch."""

RADIUS = ("optimizer.rho", "optimizer.rho_min")
"""Settings in which runs of a method may differ, and are still of one family."""

SHOWN = (
    ("eigenvalue",),
    ("ascent", "one_step"),
    ("adaptive_ascent", "adaptive_one_step"),
    ("average",),
    (f"{BATCH}eigenvalue",),
    (f"{BATCH}m_sharpness",),
)
"""What figures show: of each of these the first that was measured."""

HIGHEST = 1e100
"""In the place of an infinite rise, which has a rank as all others have."""

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
        title: of its row.
        family: what it shares with runs that differ from it in seed and radius alone.
        split: what the error is counted on, "test" or "val", the held-out images.
        error: of the weights that were measured, in percent.
        measures: by their names in `sam_bench.analysis.measure`, with `BATCH` before them where it applies; NaN where
            one is not known.
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
    """A slice of the loss.

    Args:
        kind: "line", "plane" or "between".
        titles: of the solutions, their rows'.
        seeds: of the solutions.
        steps: along each direction.
        losses, errors: nats and percent; of a plane a row for each step along the second direction.
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
        across: of the rows' means.
        radii: within a method, of the means at its radii; runs on held-out images count too, among themselves.
        seeds: within a row, of its seeds.
    """

    across: Correlation
    radii: Correlation
    seeds: Correlation


@dataclass(frozen=True)
class Sharpness:
    """All that was found of an experiment's solutions.

    Args:
        solutions: of runs whose error is the test set's.
        held_out: of runs whose error is that of held-out images, such as a tuning's, which has a method at many radii.
        probed: records of runs whose sharpness was measured while they trained.
    """

    solutions: tuple[Solution, ...]
    held_out: tuple[Solution, ...] = ()
    landscapes: tuple[Landscape, ...] = ()
    probed: tuple[Record, ...] = ()

    @property
    def names(self) -> list[str]:
        """What was measured, but for standard errors."""
        found = distinct(name for solution in self.solutions for name in solution.measures)
        return [name for name in found if not name.endswith("_se")]

    def main_names(self, prefix: str = "") -> list[str]:
        """A measure of each kind: of those at several radii the one in the middle.

        Args:
            prefix: `BATCH` for those with the statistics of each batch.
        """
        found = [prefix + name for name in ("eigenvalue_1", "trace")]
        for family in FAMILIES:
            at = [name for name in self.names if name.rpartition("_")[0] == prefix + family]
            found += at[len(at) // 2 :][:1]
        found += [prefix + name for name in ("gradient_norm", "loss")]
        return [name for name in found if name in self.names]

    def shown_names(self) -> list[str]:
        """Those that figures show: the greatest eigenvalue, worst and average case, m-sharpness."""
        found = []
        names = self.main_names() + self.main_names(BATCH)
        for families in SHOWN:
            found += [name for of in families for name in names if name.rpartition("_")[0] == of][:1]
        return found

    @cached_property
    def correlations(self) -> dict[str, Correlations]:
        """By measure, its rank correlations with the test error."""
        return {name: correlations_of((*self.solutions, *self.held_out), name) for name in self.names}

    def titles(self) -> list[str]:
        """The rows of the solutions, in their order."""
        return distinct(solution.title for solution in self.solutions)


def read_sharpness(
    folder: Path, records: Sequence[Record], rows: Sequence[Row], held_out: Sequence[Row] = ()
) -> Sharpness:
    """Read what was measured of an experiment's runs.

    Args:
        records: of runs on the test set.
        rows: those of its table, and further ones.
        held_out: rows of runs on held-out images.

    Runs that average weights are left out: those that they have trained are another row's too.

    Raises:
        StateError: a file cannot be read, or is of an earlier run of the same name, or settings were not the same for
            all.
    """
    runs = {record["run_id"]: record for record in (*records, *(run for row in held_out for run in row.runs))}
    titles = _titles(rows) | _titles(held_out)
    order = {title: place for place, title in enumerate(distinct(titles.values()))}
    measured: dict[str, dict[str, float]] = {}
    settings: dict[tuple[str, str], dict[str, str]] = {}
    for path in sorted((folder / "analysis").glob("*.json")):
        found = _read(path)
        (run_id,) = found["run_ids"]
        if (run := _run_of(found, run_id, runs, path)) is None or run["averaged"]:
            continue
        prefix = BATCH if found["settings"].get("batchnorm") == "batch" else ""
        kind = json.dumps([found.get("schema_version"), found["settings"], found["images_sha256"]], sort_keys=True)
        settings.setdefault((run["config"]["data"]["split"], prefix), {}).setdefault(kind, run_id)
        for name, value in found["measures"].items():
            if prefix and name == "weight_norm":
                continue  # the same with any statistics
            measured.setdefault(run_id, {})[prefix + name] = math.nan if value is None else float(value)
    names = distinct(name for its in measured.values() for name in its)
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
            unknown | its,
        )
        for run_id, its in measured.items()
    ]
    for kinds in settings.values():
        if len(kinds) > 1:
            raise StateError(
                f"{folder / 'analysis'} has measures of {len(kinds)} kinds of settings, which cannot be compared, such "
                f"as those of {' and '.join(kinds.values())}: move one kind away"
            )
    landscapes = []
    for path in sorted((folder / "landscape").glob("*.json")):
        found = _read(path)
        its = [_run_of(found, run_id, runs, path) for run_id in found["run_ids"]]
        if None not in its:
            landscapes.append(
                Landscape(
                    found["settings"]["kind"],
                    tuple(titles[run["run_id"]] for run in its),
                    tuple(run["seed"] for run in its),
                    tuple(found["steps"]),
                    found["losses"],
                    found["errors"],
                )
            )
    solutions.sort(key=lambda each: (order[each.title], each.seed))
    tested, held_out_solutions = (tuple(s for s in solutions if s.split == split) for split in ("test", "val"))
    landscapes.sort(key=lambda each: ([order[title] for title in each.titles], each.seeds))
    probed = [record for record in records if "analysis" in record]
    return Sharpness(tested, held_out_solutions, tuple(landscapes), tuple(probed))


def called(name: str) -> str:
    """Return what a measure is called in tables and figures."""
    if name.startswith("eigenvalue_"):
        return f"λ{''.join('₀₁₂₃₄₅₆₇₈₉'[int(digit)] for digit in name.removeprefix('eigenvalue_'))}"
    if name.startswith(BATCH):
        return f"{called(name.removeprefix(BATCH))}, batch statistics"
    family, _, value = name.rpartition("_")
    return PLAIN.get(name) or FAMILIES[family].format(value)


def as_frame(sharpness: Sharpness) -> pd.DataFrame:
    """A line for each solution, with everything that was measured."""
    return pd.DataFrame(
        [
            {"row": s.title, "method": s.method, "rho": s.rho, "seed": s.seed, "split": s.split, "test_error": s.error}
            | {"run_id": s.run_id}
            | dict(s.measures)
            for s in (*sharpness.solutions, *sharpness.held_out)
        ]
    )


def correlations_of(solutions: Sequence[Solution], name: str) -> Correlations:
    """Return a measure's rank correlations with the error; of held-out images only over radii."""
    rows: dict[str, list[tuple[float, float]]] = {}
    radii: dict[str, dict[float | None, list[tuple[float, float]]]] = {}
    for each in solutions:
        value = each.measures.get(name, math.nan)
        if not math.isnan(value):
            point = min(value, HIGHEST), each.error
            radii.setdefault(each.family, {}).setdefault(each.rho, []).append(point)
            if each.split == "test":
                rows.setdefault(each.title, []).append(point)
    means = {family: [_mean(points) for points in of_it.values()] for family, of_it in radii.items()}
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
        explanation(sharpness),
        markdown(
            ["measure", "across rows", "rows", "over radii", "methods", "over seeds", "rows"],
            [
                [
                    called(name),
                    in_words(found.across),
                    str(found.across.groups),
                    in_words(found.radii),
                    str(found.radii.groups),
                    in_words(found.seeds),
                    str(found.seeds.groups),
                ]
                for name, found in sharpness.correlations.items()
            ],
        ),
        "Spearman's rank correlations with the test error, with 95 % intervals of a bootstrap, not corrected for their "
        "number, and none where all are in order: across rows of their means, drawing rows, one method at several "
        "settings being several rows; over the radii of a method, of the means at each, drawing radii, and averaged "
        "over the methods; over the seeds of a row, drawing seeds, and averaged over the rows. Methods and rows with "
        f"fewer than four are left out.{about_held_out(sharpness)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _with_batch_statistics(sharpness: Sharpness) -> list[str]:
    """What was measured so, with a heading; nothing where nothing was."""
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
    """A line for each row."""
    cells = []
    for title in sharpness.titles():
        its = [each for each in sharpness.solutions if each.title == title]
        values = [_median_in_words([each.measures[name] for each in its]) for name in names]
        cells.append([title, str(len(its)), _mean_in_words([each.error for each in its]), *values])
    plain = [called(name.removeprefix(BATCH)) for name in names]
    return markdown(["row", "seeds", "test error %", *plain], cells)


def about_held_out(sharpness: Sharpness) -> str:
    """Return what the runs on held-out images are, in a sentence with a space before it; nothing without any."""
    its = [each for each in sharpness.held_out if each.rho is not None]
    if not its:
        return ""
    methods = distinct(title_of(each.method) for each in its)
    return f" Over radii {len(its)} runs of {', '.join(methods)} count with their errors on held-out images."


def write_sharpness(sharpness: Sharpness, experiment: str, folder: Path, about: str) -> None:
    """Write `sharpness.csv`, a line for each solution, and `sharpness.md`, a line for each row and each measure."""
    write_atomically(folder / "sharpness.csv", as_frame(sharpness).to_csv(index=False).encode())
    write_atomically(folder / "sharpness.md", tables(sharpness, experiment, about).encode())


def explanation(sharpness: Sharpness) -> str:
    """Return in a few sentences what the correlations say; nothing where there is too little to say."""
    told = []
    for name in sharpness.shown_names():
        found = zip(("across rows", "over radii", "over seeds"), sharpness.correlations[name], strict=True)
        parts = [f"{how} {in_words(each)}" for how, each in found if not math.isnan(each.value)]
        if parts:
            told.append(f"{called(name)} {', '.join(parts)}")
    if not told:
        return ""
    return (
        f"Rank correlation with the test error ({len(sharpness.titles())} rows, {len(sharpness.solutions)} "
        f"solutions), with 95 % intervals that are not corrected for their number: {'; '.join(told)}. "
        f"{thirds(sharpness)}"
    ).rstrip()


def thirds(sharpness: Sharpness, name: str = "eigenvalue_1") -> str:
    """Return the mean test error of the flattest rows, of those between and of the sharpest, in a sentence.

    A rank correlation does not see that errors may be least in the middle.
    """
    if name not in sharpness.names or math.isnan(sharpness.correlations[name].across.value):
        return ""
    rows = [[s for s in sharpness.solutions if s.title == title] for title in sharpness.titles()]
    of_rows = sorted(_mean([(each.measures[name], each.error) for each in row]) for row in rows)
    errors = [f"{np.mean([error for _, error in part]):.1f} %" for part in np.array_split(of_rows, 3)]
    return (
        f"The third of the rows with the least {called(name)} has a mean error of {errors[0]}, the next {errors[1]}, "
        f"the one with the greatest {errors[2]}."
    )


def in_words(correlation: Correlation) -> str:
    """Return a correlation with its interval; in perfect order it has none."""
    if math.isnan(correlation.value):
        return "–"
    interval = f"{correlation.low:+.2f} to {correlation.high:+.2f}"
    told = "in perfect order" if math.isnan(correlation.low) else interval.replace("-", "−")
    return f"{correlation.value:+.2f}".replace("-", "−") + f" ({told})"


def _run_of(found: Mapping[str, Any], run_id: str, runs: Mapping[str, Record], path: Path) -> Record | None:
    """The run that an analysis is of; None where there is none."""
    run = runs.get(run_id)
    if run is not None and run["test_error"] != found["test_errors"][found["run_ids"].index(run_id)]:
        raise StateError(f"{path} is of an earlier run of the same name: move it away, and analyse again")
    return run


def _titles(rows: Iterable[Row]) -> dict[str, str]:
    """By run, the title of its row; of rows of one title the further ones have their radius behind it, or a number."""
    found: dict[str, str] = {}
    taken: list[str] = []
    for row in rows:
        title = row.title
        if title in taken:
            title += f", ρ {row.rho:g}" if row.rho else f" ({taken.count(title) + 1})"
        taken.append(row.title)
        for run in row.runs:
            found.setdefault(run["run_id"], title)
    return found


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return tuple(np.mean(points, axis=0).tolist())


def _mean_in_words(values: Sequence[float]) -> str:
    low, high = t_interval(values)
    return _digits(sum(values) / len(values), 3) + ("" if math.isnan(low) else f" ± {_digits((high - low) / 2, 2)}")


def _median_in_words(values: Sequence[float]) -> str:
    """The median, and from where to where they go; nothing where one is not known."""
    if any(map(math.isnan, values)):
        return "–"
    least, greatest = (_digits(end, 3) for end in (min(values), max(values)))
    return _digits(float(np.median(values)), 3) + (f" ({least} – {greatest})" if len(values) > 1 else "")


def _digits(value: float, count: int) -> str:
    """A number with so many digits that mean something; with all digits before the point, and no exponent for them."""
    return f"{value:,.0f}" if 10**count <= abs(value) < math.inf else f"{value:.{count}g}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = found["run_ids"], found["test_errors"], found["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is no analysis of a run ({error!r}): move it away") from error
    return found
