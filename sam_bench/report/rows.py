"""Rows of a table: runs that differ in nothing but the seed, and what they have measured."""

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

#: The name of the weights after the last step, as opposed to an average of weights.
LAST = "last"

#: Entries of records that are averaged over the seeds.
MEANS = ["passes", "skipped_steps", "train_seconds", "images_per_second"]
#: Entries whose mean is NaN if the runs were made on different devices.
COSTS = ["train_seconds", "images_per_second", "peak_memory_bytes"]

#: Seeds that choose a run's images and draw its wrong labels; a preset may set them to the run's own seed.
DRAWN_BY = ("data.subset_seed", "data.noise_seed")

#: Settings of an optimizer that are not its method's own. Like the base's, they are compared over the whole table.
SHARED = ("batchnorm", "clip_norm", "m", "rho", "start_at", "sync_perturbation")


@dataclass(frozen=True, eq=False)
class Row:
    """The runs of one configuration, one for each seed, evaluated at the last or averaged weights.

    Args:
        title: the row's name in a table.
        runs: the runs' records; diverged runs are counted, but are in no mean.
        weights: `LAST`, or the name of an average.

    Raises:
        StateError: two records have the same seed.
    """

    title: str
    runs: tuple[Record, ...]
    weights: str = LAST

    def __post_init__(self):
        seeds = [run["seed"] for run in self.runs]
        if len(set(seeds)) < len(seeds):
            raise StateError(f"several records of {self.title} have the same seed ({sorted(seeds)}): keep one for each")

    @property
    def method(self) -> str:
        return self.runs[0]["method"]

    @property
    def config(self) -> Mapping[str, Any]:
        """Return the configuration of the first run."""
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
        """Return the number of runs that diverged."""
        return len(self.runs) - len(self.finished)

    @cached_property
    def measured(self) -> list[Record]:
        """Return, for each finished run, what was measured at the row's weights."""
        return [run["averaged"][self.weights] if self.is_average else run for run in self.finished]

    @cached_property
    def errors(self) -> dict[int, float]:
        """Return the test error of the last epoch in percent, by seed, of the finished runs."""
        return {run["seed"]: entry["test_error"] for run, entry in zip(self.finished, self.measured, strict=True)}

    @cached_property
    def means(self) -> dict[str, float]:
        """Return the means over finished runs; NaN if not measured, and for `COSTS` if the devices differ."""
        of_weights = pd.DataFrame(self.measured, columns=["test_loss", "test_ece"], dtype=float).mean()
        columns = ["best_test_error", "peak_memory_bytes", *MEANS]
        of_runs = pd.DataFrame(self.finished, columns=columns, dtype=float).mean()

        if len({run["device"] for run in self.runs}) > 1:
            of_runs[COSTS] = math.nan
        # Histories are those of the last weights.
        if self.is_average:
            of_runs["best_test_error"] = math.nan
        runs = [] if self.is_average else self.finished
        last = [(memorised(run), train_error(run)) for run in runs]
        of_histories = pd.DataFrame(last, columns=["memorised", "train_error"], dtype=float).mean()
        return {**of_weights, **of_runs, **of_histories}

    @property
    def mean(self) -> float:
        """Return the mean test error over finished runs; NaN if there are none."""
        return self._errors.mean()

    @property
    def std(self) -> float:
        """Return the standard deviation of the errors; NaN for fewer than two."""
        return self._errors.std(ddof=1)

    @property
    def interval(self) -> tuple[float, float]:
        """Return Student's 95 % interval of the mean error; NaN, NaN for fewer than two seeds."""
        return t_interval(list(self.errors.values()))

    @property
    def error_in_words(self) -> str:
        """Return the mean error ± half the width of its interval; "–" without a finished run."""
        return _mean_in_words(list(self.errors.values()))

    @cached_property
    def tta_errors(self) -> list[float]:
        """Return the errors with test-time augmentation in percent, of the finished runs that measured them."""
        runs = [] if self.is_average else self.finished
        return [run["test_error_tta"] for run in runs if "test_error_tta" in run]

    @property
    def tta_mean(self) -> float:
        """Return the mean error with test-time augmentation; NaN if it was not measured."""
        return pd.Series(self.tta_errors, dtype=float).mean()

    @property
    def tta_error_in_words(self) -> str:
        """Return the mean error with test-time augmentation ± half its interval; "–" if it was not measured."""
        return _mean_in_words(self.tta_errors)

    @property
    def diverged_in_words(self) -> str:
        """Return the number of diverged runs as a note behind the number of seeds; "" if all runs finished."""
        return f" (+{self.diverged} diverged)" if self.diverged else ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return the settings that all runs share, by key: without the seed, and the data's seeds if they follow it."""
        return _settings_without(tied_to_seed(self.runs), self.runs[0])

    @property
    def is_of_draws(self) -> bool:
        """Return True if each run has its own images or labels, so that the seeds are draws of the data too."""
        return bool(tied_to_seed(self.runs))

    @property
    def _errors(self) -> pd.Series:
        return pd.Series(list(self.errors.values()), dtype=float)


def _mean_in_words(errors: list[float]) -> str:
    """Return a mean ± half the width of its 95 % interval, if there are two errors or more; "–" if there are none."""
    if not errors:
        return "–"
    low, high = t_interval(errors)
    return f"{sum(errors) / len(errors):.2f}" + ("" if math.isnan(low) else f" ± {(high - low) / 2:.2f}")


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Return a row for each configuration and each average of its weights, in the order of the methods.

    A title is the method's title and the settings in which rows differ. A method's own settings, and averaging, are
    shown if the method's rows differ in them, all other settings if any rows do.
    """
    # Only runs that may differ in their draws alone show, together, whether their draws follow their seeds.
    candidates: dict[str, list[Record]] = {}
    for record in records:
        candidates.setdefault(_group_key(_settings_without(DRAWN_BY, record)), []).append(record)

    groups: dict[str, list[Record]] = {}
    for runs in candidates.values():
        tied = tied_to_seed(runs)
        for record in runs:
            groups.setdefault(_group_key(_settings_without(tied, record)), []).append(record)

    rows = [
        Row(runs[0]["method"], tuple(runs), weights)
        for runs in groups.values()
        for weights in (LAST, *averages_of(runs))
    ]

    # Titles depend on all rows, so the rows are made again once their titles are known.
    named = [(row, in_words(own_settings(row, rows))) for row in rows]
    named.sort(key=lambda pair: (rank(pair[0].method), pair[0].rho or 0, pair[1], pair[0].weights))
    return [
        Row(
            ", ".join(filter(None, [title_of(row.method), own, row.weights if row.is_average else ""])),
            row.runs,
            row.weights,
        )
        for row, own in named
    ]


def settings_of(record: Record) -> dict[str, Any]:
    """Return a run's settings and the digest of its data, by key, without the seed."""
    config = {key: value for key, value in record["config"].items() if key != "seed"}
    return flat(config | {"dataset_sha256": record["dataset_sha256"]})


def tied_to_seed(runs: Sequence[Record]) -> tuple[str, ...]:
    """Return the settings of `DRAWN_BY` that are equal to the run's own seed in all runs.

    In a single run the noise seed may equal the run's seed by chance, since both are 0 by default. There it counts only
    if the subset seed does too.
    """
    images, noise = (all(flat(run["config"]).get(key) == run["seed"] for run in runs) for key in DRAWN_BY)
    noise = noise and (images or len(runs) > 1)
    return tuple(key for key, is_tied in zip(DRAWN_BY, (images, noise), strict=True) if is_tied)


def _settings_without(left_out: Sequence[str], record: Record) -> dict[str, Any]:
    """Return a run's settings without some of `DRAWN_BY` and, if there are any, without the digest of the data."""
    dropped = {*left_out, "dataset_sha256"} if left_out else set()
    return {key: value for key, value in settings_of(record).items() if key not in dropped}


def _group_key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings as they are written on a command line."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def own_settings(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the settings, without the radius, in which a row differs from those that it is compared with."""
    keys = distinct(key for other in rows for key in other.settings if key != "optimizer.rho")
    shown = dict(row.settings)
    if "dataset_sha256" in shown:
        shown["dataset_sha256"] = shown["dataset_sha256"][:8]

    return {
        key.removeprefix("optimizer."): shown[key]
        for key in keys
        if key in shown and len({json.dumps(peer.get(key)) for peer in _settings_of_peers(row, key, rows)}) > 1
    }


def train_error(record: Record) -> float | None:
    """Return the training error of the last epoch, in percent; None if it was not recorded."""
    return (record["history"].get("train_error") or [None])[-1]


def memorised(record: Record) -> float | None:
    """Return the percentage of wrong training labels predicted in the last epoch; None without wrong labels."""
    return (memorised_by_epoch(record) or [None])[-1]


def memorised_by_epoch(record: Record) -> list[float | None]:
    """Return the percentage of wrong training labels predicted, by epoch; empty without wrong labels."""
    missed = record["history"].get("wrong_label_error", [])
    return [None if error is None else 100 - error for error in missed]


def title_of(method: str) -> str:
    """Return a method's title in tables; its name, if it is a plug-in that is not loaded."""
    return METHODS[method].title if method in METHODS else method


def rank(method: str) -> int:
    """Return a method's place in the registry, which orders tables; unknown methods come last."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return values without repetitions, in order."""
    return list(dict.fromkeys(values))


def averages_of(runs: Sequence[Record]) -> list[str]:
    """Return the names of the averages of weights that runs have."""
    return distinct(name for run in runs for name in run.get("averaged", {}))


def _settings_of_peers(row: Row, key: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the settings of the rows that one is compared with in a setting."""
    # All methods with a second pass should agree in these; the others do not have them.
    if key in ("optimizer.m", "optimizer.sync_perturbation"):
        return [other.settings for other in rows if key in other.settings]

    group, _, name = key.partition(".")
    is_own = group == "averaging" or (group == "optimizer" and not name.startswith("base.") and name not in SHARED)
    return [other.settings for other in rows if not is_own or other.method == row.method]
