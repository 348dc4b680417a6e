"""A row of a table: runs that differ in nothing but the seed, and what they have measured."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from sam_bench.errors import StateError
from sam_bench.optim.registry import METHODS
from sam_bench.report.stats import t_interval
from sam_bench.runs.record import flat

Record = Mapping[str, Any]

LAST = "last"
"""What the weights after the last step are called, beside averages."""

MEANS = ["passes", "skipped_steps", "train_seconds", "images_per_second"]
"""Entries of records that are averaged over the seeds."""
COSTS = ["train_seconds", "images_per_second", "peak_memory_bytes"]
"""Entries that are averaged on one device only."""

DRAWN_BY = ("data.subset_seed", "data.noise_seed")
"""Settings that choose a run's images and draw its wrong labels; a preset may tie them to the run's seed."""

SHARED = ("batchnorm", "clip_norm", "m", "rho", "start_at", "sync_perturbation")
"""Settings of an optimizer that are not its method's own, and are compared over the whole table, as its base's are."""


@dataclass(frozen=True, eq=False)
class Row:
    """Runs of one configuration, a seed each, and the weights of them that are evaluated.

    Args:
        title: what a table calls it.
        runs: their records; those that diverged are counted, and in no mean.
        weights: `LAST`, or the name of an average.

    Raises:
        StateError: two records are of one seed.
    """

    title: str
    runs: tuple[Record, ...]
    weights: str = LAST

    def __post_init__(self):
        seeds = [run["seed"] for run in self.runs]
        if len(set(seeds)) < len(seeds):
            raise StateError(f"there are several records of {self.title} with one seed: {sorted(seeds)}; keep one each")

    @property
    def method(self) -> str:
        return self.runs[0]["method"]

    @property
    def config(self) -> Mapping[str, Any]:
        """That of its first run."""
        return self.runs[0]["config"]

    @property
    def rho(self) -> float | None:
        return self.config["optimizer"].get("rho")

    @property
    def epochs(self) -> int:
        return self.config["trainer"]["epochs"]

    @property
    def is_average(self) -> bool:
        return self.weights != LAST

    @cached_property
    def finished(self) -> list[Record]:
        return [run for run in self.runs if run["status"] == "finished"]

    @property
    def diverged(self) -> int:
        """How many of its runs came to nothing."""
        return len(self.runs) - len(self.finished)

    @cached_property
    def measured(self) -> list[Record]:
        """What was found at its weights, of each finished run."""
        return [run["averaged"][self.weights] if self.is_average else run for run in self.finished]

    @cached_property
    def errors(self) -> dict[int, float]:
        """The test error of the last epoch in percent, by seed."""
        return {run["seed"]: of_run["test_error"] for run, of_run in zip(self.finished, self.measured, strict=True)}

    @cached_property
    def means(self) -> dict[str, float]:
        """Means over the finished runs of what was measured beside the error; NaN where it was not.

        Seconds and memory are NaN where the devices differ.
        """
        of_weights = pd.DataFrame(self.measured, columns=["test_loss", "test_ece"], dtype=float).mean()
        columns = ["best_test_error", "peak_memory_bytes", *MEANS]
        of_runs = pd.DataFrame(self.finished, columns=columns, dtype=float).mean()
        if len({run["device"] for run in self.runs}) > 1:
            of_runs[COSTS] = math.nan
        if self.is_average:
            of_runs["best_test_error"] = math.nan
        memorised_ = pd.Series([memorised(run) for run in self.finished if not self.is_average], dtype=float)
        return {**of_weights, **of_runs, "memorised": memorised_.mean()}

    @property
    def mean(self) -> float:
        """Of the errors; NaN without a finished run."""
        return self._errors.mean()

    @property
    def std(self) -> float:
        """The errors' standard deviation; NaN for fewer than two."""
        return self._errors.std(ddof=1)

    @property
    def interval(self) -> tuple[float, float]:
        """Student's, of the mean error, at 95 %; NaN, NaN for fewer than two seeds."""
        return t_interval(list(self.errors.values()))

    @property
    def error_in_words(self) -> str:
        """The mean error, ± half of its interval."""
        if not self.errors:
            return "–"
        low, high = self.interval
        return f"{self.mean:.2f}" + ("" if math.isnan(low) else f" ± {(high - low) / 2:.2f}")

    @property
    def diverged_in_words(self) -> str:
        """What is said behind the number of its seeds; nothing where all runs finished."""
        return f" (+{self.diverged} diverged)" if self.diverged else ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What its runs are but for their seed, and for what follows it, by key."""
        return _but_for(tied_to_seed(self.runs), self.runs[0])

    @property
    def is_of_draws(self) -> bool:
        """True if each run has images or labels of its own, so that the seeds are draws of the data too."""
        return bool(tied_to_seed(self.runs))

    @property
    def _errors(self) -> pd.Series:
        return pd.Series(list(self.errors.values()), dtype=float)


def rows_of(records: Iterable[Record]) -> list[Row]:
    """A row for each configuration, and one for each average of its weights, in the order of the methods.

    A title is the method's, with the settings in which rows differ: a method's own, and averaging, where its rows do,
    all others where any of the rows do.
    """
    # Runs that may differ in their draw alone: only together they show whether their draws follow their seeds.
    candidates: dict[str, list[Record]] = {}
    for record in records:
        candidates.setdefault(_text(_but_for(DRAWN_BY, record)), []).append(record)

    groups: dict[str, list[Record]] = {}
    for runs in candidates.values():
        tied = tied_to_seed(runs)
        for record in runs:
            groups.setdefault(_text(_but_for(tied, record)), []).append(record)

    rows = [
        Row(runs[0]["method"], tuple(runs), weights)
        for runs in groups.values()
        for weights in (LAST, *averages_of(runs))
    ]
    named = [(row, in_words(own_settings(row, rows))) for row in rows]
    named.sort(key=lambda each: (rank(each[0].method), each[0].rho or 0, each[1], each[0].weights))
    return [
        Row(
            ", ".join(filter(None, [title_of(row.method), own, row.weights if row.is_average else ""])),
            row.runs,
            row.weights,
        )
        for row, own in named
    ]


def settings_of(record: Record) -> dict[str, Any]:
    """What a run is but for its seed, by key."""
    config = {key: value for key, value in record["config"].items() if key != "seed"}
    return flat(config | {"dataset_sha256": record["dataset_sha256"]})


def tied_to_seed(runs: Sequence[Record]) -> tuple[str, ...]:
    """Return the settings of `DRAWN_BY` that are each run's own seed.

    A seed of the noise that is a lone run's seed may be so by chance, as 0 is the preset one: it counts only where the
    images follow the seed too.
    """
    images, noise = (all(flat(run["config"]).get(key) == run["seed"] for run in runs) for key in DRAWN_BY)
    noise = noise and (images or len(runs) > 1)
    return tuple(key for key, is_tied in zip(DRAWN_BY, (images, noise), strict=True) if is_tied)


def _but_for(left_out: Sequence[str], record: Record) -> dict[str, Any]:
    """Return a run's settings without some of `DRAWN_BY`, and without the digest of the data that follow from them."""
    dropped = {*left_out, "dataset_sha256"} if left_out else set()
    return {key: value for key, value in settings_of(record).items() if key not in dropped}


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as a command line has them."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def own_settings(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """The settings that tell a row from those that it is compared with; the radius is not among them."""
    keys = distinct(key for each in rows for key in each.settings if key != "optimizer.rho")
    shown = dict(row.settings)
    if "dataset_sha256" in shown:
        shown["dataset_sha256"] = shown["dataset_sha256"][:8]
    return {
        key.removeprefix("optimizer."): shown[key]
        for key in keys
        if key in shown and len({json.dumps(peer.get(key)) for peer in _peers(row, key, rows)}) > 1
    }


def memorised(record: Record) -> float | None:
    """The percentage of the wrong training labels that a run's last epoch predicts; None without wrong labels."""
    return (memorised_by_epoch(record) or [None])[-1]


def memorised_by_epoch(record: Record) -> list[float | None]:
    """The same of each epoch; empty without wrong labels."""
    missed = record["history"].get("wrong_label_error", [])
    return [None if each is None else 100 - each for each in missed]


def title_of(method: str) -> str:
    """What tables call a method; its name, if it is a plug-in that is not loaded."""
    return METHODS[method].title if method in METHODS else method


def rank(method: str) -> int:
    """A method's place in the registry, which is its place in a table."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Values without repetitions, in their order."""
    return list(dict.fromkeys(values))


def averages_of(runs: Sequence[Record]) -> list[str]:
    """The names of the averages of the weights that runs have."""
    return distinct(name for run in runs for name in run.get("averaged", {}))


def _peers(row: Row, key: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The settings of the rows with which one is compared in a setting."""
    if key in ("optimizer.m", "optimizer.sync_perturbation"):  # the same for all that have a second pass
        return [other.settings for other in rows if key in other.settings]
    group, _, name = key.partition(".")
    own = group == "averaging" or (group == "optimizer" and not name.startswith("base.") and name not in SHARED)
    return [other.settings for other in rows if not own or other.method == row.method]
