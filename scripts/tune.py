"""Tune methods under an experiment: the same number of trials for each, on images held out of the training set.

python scripts/tune.py --experiment noisy40 --methods sgd,sam --trials 12

A trial is a run with data.split=val: nothing of the test set is used. A method's first trial has the preset's own
values, the others are points of a Sobol sequence in its ranges (conf/tune/). The best of them, by the held-out error of
the last epoch, is written to conf/tuned/<experiment>_<method>.yaml, from where every later run takes it, unless it says
~tuned; all trials are written to results/<experiment>/tuning.{md,csv}. With --config-dir mine both are written to
mine/tuned/, from where runs with --config-dir mine take them, and presets and ranges may lie in mine/ too.
Interrupted, the same command goes on where it was; with more trials, those that are done count. With --only
optimizer.rho nothing but the radius is tuned, of methods that have one.

What follows the options are settings of all trials, such as trainer.device=cpu, or plugin=mine.py.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import qmc

from sam_bench.cli.compose import CONF, compose, load_plugins, names_plugin
from sam_bench.cli.search_space import Range, search_space
from sam_bench.errors import ConfigError, StateError
from sam_bench.lookup import suggestion
from sam_bench.optim.registry import METHODS
from sam_bench.report.tuning import Trial, at_ends, best, trials_as_frame, tuning_report, written
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import flat
from sam_bench.runs.spec import RunSpec
from scripts.arguments import add_config_dir, at_least, errors_as_messages, jobs, method_names, parser
from scripts.planned_runs import PlannedRun, train
from scripts.planned_runs import plan as plan_runs

SOBOL = {"d": 8, "scramble": True, "rng": 0}
"""The sequence. Every method has the same points, and takes as many of their dimensions as it has settings: with the
common ones first, all try the same learning rates and weight decays."""

HEADER = r"Written by scripts/tune\.py: the best of (\d+) trials(?: of (\S+) alone)?(?: with (.*))?, by the error on"
"""What a file says that tuning has written."""

OURS = ("data.split", "experiment", "optimizer", "optimizer/base", "tuned", "~tuned")
"""What tuning itself sets, or what its ranges are made for."""


@dataclass(frozen=True)
class Search:
    """How values were chosen.

    Args:
        trials: of each method.
        overrides: what all of them were run with, beside the preset.
        only: the settings that were tuned, with commas between them; empty for all that are in `conf/tune`.
    """

    trials: int
    overrides: str
    only: str = ""

    def what(self) -> str:
        """Return what a value of it is."""
        how = f" of {self.only} alone" if self.only else ""
        how += f" with {self.overrides}" if self.overrides else ""
        return f"the best of {self.trials} trials{how}"

    def header(self) -> str:
        """Return the first line of a file of values; `HEADER` reads it."""
        return f"Written by scripts/tune.py: {self.what()}, by the error on held-out images."


@dataclass(frozen=True)
class Planned:
    """A trial, before it is run."""

    method: str
    settings: Mapping[str, float]
    run: PlannedRun


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("--experiment", required=True, help="preset that is tuned")
    words.add_argument("--methods", default="sgd,sam,asam,gsam", help="methods with commas between them, or all")
    words.add_argument("--trials", default=12, type=at_least(1), help="of each method")
    words.add_argument("--only", default="", help="settings to tune, with commas between them; else all")
    words.add_argument("--jobs", default=jobs(), type=at_least(1), help="trials at once, which share the cores")
    add_config_dir(words)
    words.add_argument("overrides", nargs="*", help="settings of all trials")
    options = words.parse_intermixed_args(arguments)
    load_plugins(options.overrides)
    try:
        methods = method_names(options.methods)
    except argparse.ArgumentTypeError as error:
        words.error(f"argument --methods: {error}")
    of_protocol = [override for override in options.overrides if not names_plugin(override)]
    asked = Search(options.trials, " ".join(of_protocol), options.only)
    folder = (options.config_dir or CONF) / "tuned"
    earlier = searches(folder, options.experiment)
    for method in methods:
        check_replaceable(target(folder, options.experiment, method), earlier.get(method), asked)
    if options.config_dir is None:
        check_protocol(options.experiment, methods[0], options.overrides)
    only = [key for key in options.only.split(",") if key] or None
    known = {key for method in methods for key in search_space(method, options.config_dir)}
    for key in only or ():
        if key not in known:
            raise ConfigError(f"--only {key}{suggestion(key, known)}: none of these methods has it in conf/tune")
    trials_of = partial(
        plan,
        options.experiment,
        count=options.trials,
        extra=options.overrides,
        only=only,
        config_dir=options.config_dir,
    )
    planned = trials_of(methods)
    train([each.run for its in planned.values() for each in its], options.jobs, "nothing is chosen")
    alike = [method for method, search in earlier.items() if search == asked and method not in planned]
    others = trials_of(alike)
    planned |= {method: its for method, its in others.items() if all(each.run.files.finished() for each in its)}
    trials = {
        method: [Trial(method, each.settings, each.run.files.finished()) for each in its]
        for method, its in planned.items()
    }
    report = tuning_report(options.experiment, trials, remarks(trials, earlier, asked, options.config_dir))
    results = planned[methods[0]][0].run.config.paths.results_of(options.experiment)
    name = results / "tuning" if options.config_dir is None else folder / f"{options.experiment}_tuning"
    files = {Path(f"{name}.md"): report, Path(f"{name}.csv"): trials_as_frame(trials).to_csv(index=False)}
    for method in methods:
        if best(trials[method]) is not None:
            files[target(folder, options.experiment, method)] = tuned_file(trials[method], asked)
    for path, text in files.items():
        write_atomically(path, text.encode())
    print(report)
    print(f"Written: {', '.join(map(str, files))}")


def target(folder: Path, experiment: str, method: str) -> Path:
    """Return the file of a method's values."""
    return folder / f"{experiment}_{method}.yaml"


def searches(folder: Path, experiment: str) -> dict[str, Search]:
    """Return what is behind the values that tuning has written for a preset, by method."""
    found = {}
    for method in METHODS:
        path = target(folder, experiment, method)
        if path.exists() and (header := re.search(HEADER, path.read_text(encoding="utf-8"))):
            found[method] = Search(int(header[1]), header[3] or "", header[2] or "")
    return found


def check_replaceable(path: Path, earlier: Search | None, asked: Search) -> None:
    """Find out whether a file may be written.

    Raises:
        StateError: it is not tuning's own, or what it holds is of another search, or one of more trials.
    """
    if not path.exists():
        return
    if earlier is None:
        raise StateError(f"{path} was not written by tuning: move it away, or tune another preset")
    if replace(earlier, trials=0) != replace(asked, trials=0) or earlier.trials > asked.trials:
        raise StateError(f"{path} has {earlier.what()}: move it away, or ask for as many and the same")


def check_protocol(experiment: str, method: str, overrides: list[str]) -> None:
    """Find out whether trials with these overrides are runs of the preset.

    Raises:
        ConfigError: they follow another protocol.
    """
    preset, changed = (
        RunSpec.resolve(compose([f"experiment={experiment}", f"optimizer={method}", "~tuned", *each])).identity
        for each in ([], overrides)
    )
    if preset | {"seed": None} != changed | {"seed": None}:
        raise ConfigError(
            f"{' '.join(overrides)} is another protocol than {experiment}: its values belong into a folder of your "
            "own, --config-dir mine, from where runs with the same option take them"
        )


def plan(
    experiment: str,
    methods: list[str],
    count: int,
    extra: list[str],
    only: list[str] | None = None,
    config_dir: Path | None = None,
) -> dict[str, list[Planned]]:
    """Return the trials of each method, of all its settings or of some; each is checked before any is run.

    Raises:
        UserError: one of them cannot be run, or the overrides set what is tuned, or what tuning sets; or a method has
            none of the settings.
    """
    found = []
    for method in methods:
        whole = search_space(method, config_dir)
        space = {key: ends for key, ends in whole.items() if only is None or key in only}
        if not space:
            raise ConfigError(f"--only {','.join(only or ())}: {method} has none of these, but {', '.join(whole)}")
        for override in extra:
            if (key := override.partition("=")[0].lstrip("+")) in (*space, *OURS):
                raise ConfigError(f"{override}: {key} is not the same for all trials; leave it out")
        common = [f"experiment={experiment}", f"optimizer={method}", "~tuned", "data.split=val", *extra]
        preset = flat(compose(common, config_dir).identity())
        own = {key: preset[key] for key in space}
        for settings in [own, *points(space, count - 1)]:
            overrides = [*common, *(f"{key}={value!r}" for key, value in settings.items())]
            found.append((method, settings, overrides))
    runs = plan_runs(
        [(f"{method}  {written(settings)}", overrides) for method, settings, overrides in found], config_dir
    )
    planned: dict[str, list[Planned]] = {}
    for (method, settings, _), run in zip(found, runs, strict=True):
        planned.setdefault(method, []).append(Planned(method, settings, run))
    return planned


def points(space: Mapping[str, Range], count: int) -> list[dict[str, float]]:
    """Return points of a space, evenly spread on logarithmic scales; more of them begin with these.

    The values have three significant digits.
    """
    unit = qmc.Sobol(**SOBOL).random_base2(math.ceil(math.log2(max(count, 1))))[:count, : len(space)]
    return [
        {
            key: float(f"{least * (greatest / least) ** place:.3g}")
            for (key, (least, greatest)), place in zip(space.items(), point, strict=True)
        }
        for point in unit.tolist()
    ]


def remarks(
    trials: Mapping[str, list[Trial]], earlier: Mapping[str, Search], asked: Search, config_dir: Path | None
) -> list[str]:
    """Return what else is to be said: what all were told, best values at ends of their ranges, methods with more or
    fewer trials."""
    found = [f"All with {asked.overrides}."] if asked.overrides else []
    for method, its in trials.items():
        space = {key: ends for key, ends in search_space(method, config_dir).items() if key in its[0].settings}
        chosen = best(its)
        for key in at_ends(chosen.settings, space) if chosen else ():
            least, greatest = space[key]
            found.append(
                f"{METHODS[method].title}: the best {key}, {chosen.settings[key]:g}, lies at an end of its range, "
                f"{least:g} to {greatest:g}: widen it in conf/tune/ and tune again."
            )
    for method, search in earlier.items():
        if method not in trials and search != asked:
            found.append(
                f"{METHODS[method].title}'s values are {search.what()}: they are not to be compared with these."
            )
    return found


def tuned_file(trials: list[Trial], search: Search) -> str:
    """Return the content of a method's file in `conf/tuned`: the best trial's values, and all trials in a comment."""
    chosen = best(trials)
    lines = ["# @package _global_", f"# {search.header()}"]
    for trial in sorted(trials, key=lambda trial: (trial.diverged, trial.error, trial is not chosen)):
        error = "diverged" if trial.diverged else f"{trial.error:.2f} %"
        lines.append(f"#   {error}  {written(trial.settings)}")
    values: dict[str, Any] = {}
    for key, value in chosen.settings.items():
        *groups, name = key.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return "\n".join(lines) + "\n" + yaml.safe_dump(values, sort_keys=False)


if __name__ == "__main__":
    main(sys.argv[1:])
