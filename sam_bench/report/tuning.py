"""The results of tuning: the best trial of each method, the gain from more trials, and a table of all trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import pandas as pd

from sam_bench.optim.registry import METHODS
from sam_bench.report.markup import markdown

#: A value closer to an end of its range than this share of the range, on a logarithmic scale, is at that end.
EDGE = 0.05

#: The remark for tuning on held-out images with wrong labels.
NOISY = (
    "Some labels of the held-out images are wrong, as those of the training images are: a user has no others to choose "
    "by. So these errors cannot be compared with those of a test set."
)


@dataclass(frozen=True)
class Trial:
    """A run on the held-out split.

    Args:
        settings: the tuned settings, by key.
        record: the run's record.
    """

    method: str
    settings: Mapping[str, float]
    record: Mapping[str, Any]

    @property
    def error(self) -> float:
        """Return the held-out error of the last epoch, in percent."""
        return self.record["test_error"]

    @property
    def diverged(self) -> bool:
        return self.record["status"] == "diverged"


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the lowest error, if equal with the smallest radius; None if all diverged."""
    finished = [trial for trial in trials if not trial.diverged]
    return min(finished, key=lambda trial: (trial.error, trial.settings.get("optimizer.rho", 0.0)), default=None)


def at_ends(settings: Mapping[str, float], space: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the settings whose values are at an end of their ranges, where better ones may lie outside.

    Args:
        settings: values by key.
        space: the least and greatest value of each setting.
    """
    keys = []
    for key, (least, greatest) in space.items():
        margin = (greatest / least) ** EDGE
        if not least * margin < settings[key] < greatest / margin:
            keys.append(key)
    return keys


def expected_best(errors: Sequence[float], k: int) -> float:
    """Return the error that a search of k trials finds on average: the mean, over all k of these trials, of the least.

    Dodge et al. (2019), arXiv:1909.03004, but without replacement, as in Tang et al. (2020), arXiv:2004.14164.

    Raises:
        ValueError: k is below 1, or above the number of errors.
    """
    n = len(errors)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must be from 1 to the {n} errors given")
    return sum(error * comb(n - 1 - i, k - 1) for i, error in enumerate(sorted(errors))) / comb(n, k)


def tuning_report(experiment: str, trials: Mapping[str, Sequence[Trial]], remarks: Sequence[str] = ()) -> str:
    """Return the Markdown report: each method's best trial, the best of k trials on average, and all trials.

    Args:
        trials: the trials by method, equally many of each; the first of each has the preset's own values.
        remarks: further paragraphs above the table.
    """
    methods = sorted(trials, key=list(METHODS).index)
    count = len(next(iter(trials.values())))
    sizes = sorted({2**power for power in range(count.bit_length())} | {count})

    rows = []
    for method in methods:
        chosen = best(trials[method])
        errors = [100.0 if trial.diverged else trial.error for trial in trials[method]]
        best_cells = ["–", "all diverged"] if chosen is None else [f"{chosen.error:.2f}", written(chosen.settings)]
        expected = [f"{expected_best(errors, k):.2f}" for k in sizes]
        rows.append([METHODS[method].title, f"{errors[0]:.2f}", *best_cells, *expected])

    headings = ["method", "preset's own %", "best %", "its settings", *(f"of {k}" for k in sizes)]
    parts = [
        f"# {experiment}: tuning",
        f"{count} trials of each method, on images held out of the training set: error of the last epoch. The first "
        "trial has the preset's own values, the others are points of a Sobol sequence. “Of k” is what the best of k of "
        "the trials has on average, where one that diverged has 100 %.",
        *([NOISY] if any(of_method[0].record["wrong_test_labels"] for of_method in trials.values()) else []),
        *remarks,
        markdown(headings, rows),
    ]

    for method in methods:
        chosen = best(trials[method])
        keys = list(trials[method][0].settings)
        rows = [_cells(number, trial, trial is chosen) for number, trial in enumerate(trials[method], start=1)]
        measured = ["held-out error %", "best epoch %", "NLL", "ECE %", "train error %", "seconds"]
        names = [key.removeprefix("optimizer.") for key in keys]
        parts += [f"## {METHODS[method].title}", markdown(["trial", *names, *measured, ""], rows)]
    return "\n\n".join(parts) + "\n"


def trials_as_frame(trials: Mapping[str, Sequence[Trial]]) -> pd.DataFrame:
    """Return all trials, a row each, unrounded."""
    measured = ("run_id", "status", "test_error", "best_test_error", "test_loss", "test_ece", "train_loss", "passes")
    rows = [
        {"method": trial.method, "trial": number, **trial.settings}
        | {name: trial.record[name] for name in (*measured, "train_seconds")}
        for of_method in trials.values()
        for number, trial in enumerate(of_method, start=1)
    ]
    return pd.DataFrame(rows)


def written(settings: Mapping[str, float]) -> str:
    """Return settings as they are written on a command line."""
    return " ".join(f"{key}={value:g}" for key, value in settings.items())


def _cells(number: int, trial: Trial, chosen: bool) -> list[str]:
    record = trial.record
    measured = [
        f"{trial.error:.2f}",
        f"{record['best_test_error']:.2f}",
        "–" if record["test_loss"] is None else f"{record['test_loss']:.3f}",
        "–" if record["test_ece"] is None else f"{record['test_ece']:.2f}",
        f"{record['history']['train_error'][-1]:.2f}",
        f"{record['train_seconds']:,.0f}",
    ]
    remark = "diverged" if trial.diverged else "best" if chosen else ""
    return [str(number), *(f"{value:g}" for value in trial.settings.values()), *measured, remark]
