"""The files with tuned values, `tuned/<experiment>_<method>.yaml`: what is written into them, and over which."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sam_bench.errors import StateError
from sam_bench.optim.registry import METHODS
from sam_bench.report.tuning import Trial, best, written

#: Pattern of the comment at the top of a file that tuning has written.
HEADER = (
    r"Written by (?:sam-bench tune|scripts/tune\.py): "
    r"the best of (\d+) trials(?: of (\S+) alone)?(?: with (.*))?, by the error on"
)


@dataclass(frozen=True)
class Search:
    """A search for a method's values.

    Args:
        trials: number of trials of each method.
        overrides: settings of all trials in addition to the preset, separated by spaces.
        only: the settings that were tuned, separated by commas; empty for all settings in `conf/tune.yaml`.
    """

    trials: int
    overrides: str
    only: str = ""

    def what(self) -> str:
        """Return the origin of a value from this search, such as "the best of 12 trials"."""
        origin = f" of {self.only} alone" if self.only else ""
        origin += f" with {self.overrides}" if self.overrides else ""
        return f"the best of {self.trials} trials{origin}"

    def header(self) -> str:
        """Return the comment at the top of a file of values, which `HEADER` matches."""
        return f"Written by sam-bench tune: {self.what()}, by the error on held-out images."


def target(folder: Path, experiment: str, method: str) -> Path:
    """Return the path of the file with a method's tuned values."""
    return folder / f"{experiment}_{method}.yaml"


def searches(folder: Path, experiment: str) -> dict[str, Search]:
    """Return the searches that the tuned values of a preset come from, by method."""
    found_searches = {}
    for method in METHODS:
        path = target(folder, experiment, method)
        if path.exists() and (header := re.search(HEADER, path.read_text(encoding="utf-8"))):
            found_searches[method] = Search(int(header[1]), header[3] or "", header[2] or "")
    return found_searches


def check_replaceable(path: Path, earlier: Search | None, request: Search) -> None:
    """Check that a file of tuned values may be overwritten.

    Args:
        earlier: the search that the values in the file come from; None if tuning did not write the file.

    Raises:
        StateError: the file was not written by tuning, or its values come from a different search or one with more
            trials.
    """
    if not path.exists():
        return
    if earlier is None:
        raise StateError(f"{path} was not written by tuning: move it away, or tune another preset")
    if replace(earlier, trials=0) != replace(request, trials=0) or earlier.trials > request.trials:
        raise StateError(
            f"{path} has {earlier.what()}: move it away, or repeat that search with at least as many trials"
        )


def tuned_file(trials: list[Trial], search: Search) -> str:
    """Return the content of a method's file in `conf/tuned`: the best trial's values, with all trials in a comment."""
    best_trial = best(trials)
    lines = ["# @package _global_", f"# {search.header()}"]
    for trial in sorted(trials, key=lambda trial: (trial.diverged, trial.error, trial is not best_trial)):
        error = "diverged" if trial.diverged else f"{trial.error:.2f} %"
        lines.append(f"#   {error}  {written(trial.settings)}")

    # Keys such as optimizer.base.lr become nested mappings.
    values: dict[str, Any] = {}
    for key, value in best_trial.settings.items():
        *groups, name = key.split(".")
        group_values = values
        for group in groups:
            group_values = group_values.setdefault(group, {})
        group_values[name] = value
    return "\n".join(lines) + "\n" + yaml.safe_dump(values, sort_keys=False)
