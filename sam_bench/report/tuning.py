"""What tuning found: the best of a method's trials, how sure that is, and a table of them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import pandas as pd

from sam_bench.optim.registry import METHODS
from sam_bench.report.markup import markdown

EDGE = 0.05
"""Within this part of a range's length, on its logarithmic scale, a value lies at its end."""

NOISY = (
    "Some labels of the held-out images are wrong, as those of the training images are: a user has no others to choose "
    "by. So these errors cannot be compared with those of a test set."
)


@dataclass(frozen=True)
class Trial:
    """A run on the held-out split.

    Args:
        settings: what was tuned, by key.
        record: the run's.
    """

    method: str
    settings: Mapping[str, float]
    record: Mapping[str, Any]

    @property
    def error(self) -> float:
        """The held-out error of the last epoch, in percent."""
        return self.record["test_error"]

    @property
    def diverged(self) -> bool:
        return self.record["status"] == "diverged"


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of least error, of equal ones that of the smaller radius; None where all have diverged."""
    finished = [trial for trial in trials if not trial.diverged]
    return min(finished, key=lambda trial: (trial.error, trial.settings.get("optimizer.rho", 0.0)), default=None)


def at_ends(settings: Mapping[str, float], space: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the settings whose values lie at an end of their ranges: beyond it there may be better ones."""
    found = []
    for key, (least, greatest) in space.items():
        margin = (greatest / least) ** EDGE
        if not least * margin < settings[key] < greatest / margin:
            found.append(key)
    return found


def expected_best(errors: Sequence[float], k: int) -> float:
    """Return the mean of the least error of k trials, over all choices of k of these: what a search of k finds.

    Dodge et al. (2019), arXiv:1909.03004, but without replacement, as Tang et al. (2020), arXiv:2004.14164, have it.

    Raises:
        ValueError: there are fewer than k.
    """
    n = len(errors)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, which must be from 1 to the {n} errors")
    return sum(error * comb(n - 1 - i, k - 1) for i, error in enumerate(sorted(errors))) / comb(n, k)


def tuning_report(experiment: str, trials: Mapping[str, Sequence[Trial]], remarks: Sequence[str] = ()) -> str:
    """Return the report in Markdown: the best of each method, how it grows with the number of trials, all trials.

    Args:
        trials: by method, equally many of each; the first of each has the preset's own values.
        remarks: what else is to be said.
    """
    methods = sorted(trials, key=list(METHODS).index)
    count = len(next(iter(trials.values())))
    sizes = sorted({2**power for power in range(count.bit_length())} | {count})
    rows = []
    for method in methods:
        chosen = best(trials[method])
        errors = [100.0 if trial.diverged else trial.error for trial in trials[method]]
        found = ["–", "all diverged"] if chosen is None else [f"{chosen.error:.2f}", written(chosen.settings)]
        settled = [f"{expected_best(errors, k):.2f}" for k in sizes]
        rows.append([METHODS[method].title, f"{errors[0]:.2f}", *found, *settled])
    headings = ["method", "preset's own %", "best %", "its settings", *(f"of {k}" for k in sizes)]
    parts = [
        f"# {experiment}: tuning",
        f"{count} trials of each method, on images held out of the training set: error of the last epoch. The first "
        "trial has the preset's own values, the others are points of a Sobol sequence. “Of k” is what the best of k of "
        "the trials has on average, where one that diverged has 100 %.",
        *([NOISY] if any(its[0].record["wrong_test_labels"] for its in trials.values()) else []),
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
    """Return settings as the command line takes them."""
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
