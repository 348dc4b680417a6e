"""How sharp the loss is around solutions, and whether that goes with their test errors: tables, a finding in words.

Reads what scripts/analyse.py has measured; nothing is computed from weights here, and torch is not needed.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sam_bench.errors import StateError
from sam_bench.report.markup import markdown
from sam_bench.report.rows import Record, Row, distinct, settings_of
from sam_bench.report.stats import Correlation, correlation_across, correlation_within, t_interval
from sam_bench.runs.files import write_atomically

FAMILIES = {
    "one_step": "rise by one step, ρ {}",
    "ascent": "rise by ascent, ρ {}",
    "adaptive_one_step": "adaptive rise by one step, ρ {}",
    "adaptive_ascent": "adaptive rise by ascent, ρ {}",
    "average": "mean rise, σ {}",
    "adaptive_average": "adaptive mean rise, σ {}",
}
"""What measures at a radius, or at a σ, are called."""

RADIUS = ("optimizer.rho", "optimizer.rho_min")
"""Settings in which runs of a method may differ, and are still of one family."""

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
        error: on the test set, of the weights that were measured, in percent.
        measures: by their names in `sam_bench.analysis.measure`.
    """

    run_id: str
    title: str
    method: str
    family: str
    rho: float | None
    seed: int
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


@dataclass(frozen=True)
class Sharpness:
    """All that was found of an experiment's solutions.

    Args:
        probed: records of runs whose sharpness was measured while they trained.
    """

    solutions: tuple[Solution, ...]
    landscapes: tuple[Landscape, ...] = ()
    probed: tuple[Record, ...] = ()

    @property
    def names(self) -> list[str]:
        """What was measured, but for standard errors."""
        found = distinct(name for solution in self.solutions for name in solution.measures)
        return [name for name in found if not name.endswith("_se")]

    def main_names(self) -> list[str]:
        """A measure of each kind: of those at several radii the one in the middle."""
        found = [name for name in ("gradient_norm", "eigenvalue_1", "trace") if name in self.names]
        for family in ("ascent", "adaptive_ascent", "average", "adaptive_average"):
            at = [name for name in self.names if name.rpartition("_")[0] == family]
            found += at[len(at) // 2 :][:1]
        return found

    def titles(self) -> list[str]:
        """The rows of the solutions, in their order."""
        return distinct(solution.title for solution in self.solutions)


def read_sharpness(folder: Path, records: Sequence[Record], rows: Sequence[Row]) -> Sharpness:
    """Read what was measured of an experiment's runs.

    Args:
        rows: those of its table, and further ones.

    Raises:
        StateError: a file is not readable, or of no record, or runs were measured with different settings.
    """
    runs = {record["run_id"]: record for record in records}
    titles = _titles(rows)
    order = {title: place for place, title in enumerate(distinct(titles.values()))}
    solutions = []
    settings = {}
    for path in sorted((folder / "analysis").glob("*.json")):
        found = _read(path)
        (run_id,) = found["run_ids"]
        if run_id not in runs:
            continue
        settings.setdefault(json.dumps([found["settings"], found["images_sha256"]], sort_keys=True), []).append(run_id)
        run = runs[run_id]
        solutions.append(
            Solution(
                run_id,
                titles[run_id],
                run["method"],
                json.dumps(
                    {key: value for key, value in settings_of(run).items() if key not in RADIUS}, sort_keys=True
                ),
                run["config"]["optimizer"].get("rho"),
                run["seed"],
                run["test_error"],
                {name: math.inf if value is None else value for name, value in found["measures"].items()},
            )
        )
    if len(settings) > 1:
        raise StateError(
            f"{folder / 'analysis'} has measures of {len(settings)} kinds of settings, which cannot be compared, such "
            f"as those of {' and '.join(ids[0] for ids in settings.values())}: move one kind away"
        )
    landscapes = []
    for path in sorted((folder / "landscape").glob("*.json")):
        found = _read(path)
        if all(run_id in runs for run_id in found["run_ids"]):
            its = [runs[run_id] for run_id in found["run_ids"]]
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
    landscapes.sort(key=lambda each: ([order[title] for title in each.titles], each.seeds))
    probed = [record for record in records if "analysis" in record["config"]]
    return Sharpness(tuple(solutions), tuple(landscapes), tuple(probed))


def called(name: str) -> str:
    """Return what a measure is called in tables and figures."""
    if name.startswith("eigenvalue_"):
        return f"λ{''.join('₀₁₂₃₄₅₆₇₈₉'[int(digit)] for digit in name.removeprefix('eigenvalue_'))}"
    family, _, value = name.rpartition("_")
    return PLAIN.get(name) or FAMILIES[family].format(value)


def as_frame(sharpness: Sharpness) -> pd.DataFrame:
    """A line for each solution, with everything that was measured."""
    return pd.DataFrame(
        [
            {"row": s.title, "method": s.method, "rho": s.rho, "seed": s.seed, "test_error": s.error}
            | {"run_id": s.run_id}
            | dict(s.measures)
            for s in sharpness.solutions
        ]
    )


def correlations(sharpness: Sharpness) -> dict[str, tuple[Correlation, Correlation]]:
    """By measure, its rank correlation with the test error: across rows, and within a method over seeds and radii."""
    found = {}
    for name in sharpness.names:
        across = _points(sharpness.solutions, name, lambda each: each.title)
        within = _points(sharpness.solutions, name, lambda each: each.family)
        found[name] = correlation_across(across), correlation_within(within)
    return found


def tables(sharpness: Sharpness, experiment: str, about: str) -> str:
    """Return the page of an experiment's sharpness, in Markdown."""
    names = ["loss", *sharpness.main_names()]
    cells = []
    for title in sharpness.titles():
        its = [each for each in sharpness.solutions if each.title == title]
        errors = [each.error for each in its]
        values = [_mean_in_words([each.measures[name] for each in its]) for name in names]
        cells.append([title, str(len(its)), _mean_in_words(errors, ".2f"), *values])
    parts = [
        f"# {experiment}: sharpness",
        f"{about} Means over the seeds ± half of Student's 95 % interval. Rises are those of the training loss, in "
        "nats; λ₁ and the trace are the Hessian's.",
        markdown(["row", "seeds", "test error %", *map(called, names)], cells),
        "## Does it go with the test error?",
        explanation(sharpness),
        markdown(
            ["measure", "across rows", "rows", "within a method", "methods", "runs"],
            [
                [
                    called(name),
                    in_words(across),
                    str(across.groups),
                    in_words(within),
                    str(within.groups),
                    str(within.runs),
                ]
                for name, (across, within) in correlations(sharpness).items()
            ],
        ),
        "Spearman's rank correlations with the test error, with 95 % intervals of a bootstrap: across rows of their "
        "means, drawing rows; within a method over its seeds and radii, drawing runs, and averaged over the methods.",
    ]
    return "\n\n".join(parts) + "\n"


def write_sharpness(sharpness: Sharpness, experiment: str, folder: Path, about: str) -> None:
    """Write `sharpness.csv`, a line for each solution, and `sharpness.md`, a line for each row and each measure."""
    write_atomically(folder / "sharpness.csv", as_frame(sharpness).to_csv(index=False).encode())
    write_atomically(folder / "sharpness.md", tables(sharpness, experiment, about).encode())


def explanation(sharpness: Sharpness) -> str:
    """Return in a few sentences what the correlations say; nothing where there is too little to say."""
    found = correlations(sharpness)
    told = []
    for name in [each for each in (*sharpness.main_names(), "loss") if each in found]:
        across, within = found[name]
        if math.isnan(across.value):
            continue
        inside = "" if math.isnan(within.value) else f", within a method {in_words(within)}"
        told.append(f"{called(name)} {in_words(across)}{inside}")
    if not told:
        return ""
    return (
        f"Rank correlation with the test error across {len(sharpness.titles())} rows ({len(sharpness.solutions)} "
        f"solutions): {'; '.join(told)}. {thirds(sharpness)}"
    )


def thirds(sharpness: Sharpness, name: str = "eigenvalue_1") -> str:
    """Return the mean test error of the flattest rows, of those between and of the sharpest, in a sentence.

    A rank correlation does not see that errors may be least in the middle.
    """
    of_rows = [np.mean(points, axis=0) for points in _points(sharpness.solutions, name, lambda s: s.title).values()]
    parts = np.array_split(sorted(map(tuple, of_rows)), 3)
    errors = [f"{np.mean([error for _, error in part]):.1f} %" for part in parts]
    return (
        f"The third of the rows with the least {called(name)} has a mean error of {errors[0]}, the next {errors[1]}, "
        f"the one with the greatest {errors[2]}."
    )


def in_words(correlation: Correlation) -> str:
    """Return a correlation with its interval."""
    if math.isnan(correlation.value):
        return "–"
    return f"{correlation.value:+.2f} ({correlation.low:+.2f} to {correlation.high:+.2f})".replace("-", "−")


def _titles(rows: Iterable[Row]) -> dict[str, str]:
    """By run, the title of its row; of rows of one title the further ones have their radius behind it."""
    found: dict[str, str] = {}
    for row in rows:
        known = row.title in found.values()
        for run in row.runs:
            found.setdefault(run["run_id"], f"{row.title}, ρ {row.rho:g}" if known and row.rho else row.title)
    return found


def _points(
    solutions: Iterable[Solution], name: str, group: Callable[[Solution], str]
) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for each in solutions:
        if math.isfinite(each.measures.get(name, math.nan)):
            found.setdefault(group(each), []).append((each.measures[name], each.error))
    return found


def _mean_in_words(values: Sequence[float], form: str = ".3g") -> str:
    mean = sum(values) / len(values)
    low, high = t_interval(values)
    return f"{mean:{form}}" + ("" if math.isnan(low) else f" ± {(high - low) / 2:.2g}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = found["run_ids"], found["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is no analysis of a run ({error!r}): move it away") from error
    return found
