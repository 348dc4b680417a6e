"""Tune methods under an experiment, with the same number of trials each, on images held out of the training set.

python scripts/tune.py --experiment noisy40 --methods sgd,sam --trials 12

A trial is a run with data.split=val, which does not use the test set. A method's first trial has the preset's values;
the others are points of a Sobol sequence in the method's ranges (conf/tune/). The trial with the lowest held-out error
in the last epoch is the best. Its values are written to conf/tuned/<experiment>_<method>.yaml. Every later run uses
them, unless it is started with ~tuned. All trials are written to results/<experiment>/tuning.{md,csv}.

With --config-dir mine, both are written to mine/tuned/, and runs with --config-dir mine use the values. Presets and
ranges may be in mine/ too. After an interruption, the same command continues where it stopped; with more trials, it
keeps those that are done. With --only optimizer.rho, only the radius is tuned, for methods that have one.

Settings of all trials, such as trainer.device=cpu or plugin=mine.py, may follow the options.
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

from sam_bench.cli.compose import compose, load_plugins, names_plugin
from sam_bench.cli.conf_folder import CONF
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

#: The Sobol sequence. Every method uses the same points, and as many of their dimensions as it has settings. Settings
#: that all methods have come first, so all methods try the same learning rates and weight decays.
SOBOL = {"d": 8, "scramble": True, "rng": 0}

#: Pattern of the comment at the top of a file that tuning has written.
HEADER = r"Written by scripts/tune\.py: the best of (\d+) trials(?: of (\S+) alone)?(?: with (.*))?, by the error on"

#: Settings that tuning sets itself, or that its ranges depend on.
OURS = ("data.split", "experiment", "optimizer", "optimizer/base", "tuned", "~tuned")


@dataclass(frozen=True)
class Search:
    """A search for a method's values.

    Args:
        trials: number of trials of each method.
        overrides: settings of all trials in addition to the preset, separated by spaces.
        only: the settings that were tuned, separated by commas; empty for all settings in `conf/tune`.
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
        return f"Written by scripts/tune.py: {self.what()}, by the error on held-out images."


@dataclass(frozen=True)
class Planned:
    """A trial that has not been run."""

    method: str
    settings: Mapping[str, float]
    run: PlannedRun


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--experiment", required=True, help="preset to tune")
    arguments_parser.add_argument(
        "--methods", default="sgd,sam,asam,gsam", help="methods with commas between them, or all"
    )
    arguments_parser.add_argument("--trials", default=12, type=at_least(1), help="number of trials of each method")
    arguments_parser.add_argument("--only", default="", help="settings to tune, with commas between them; else all")
    arguments_parser.add_argument(
        "--jobs", default=jobs(), type=at_least(1), help="trials at once, which share the cores"
    )
    add_config_dir(arguments_parser)
    arguments_parser.add_argument("overrides", nargs="*", help="settings of all trials")
    options = arguments_parser.parse_intermixed_args(arguments)

    # Methods may be defined by a plugin, so their names are checked after it is loaded.
    load_plugins(options.overrides)
    try:
        methods = method_names(options.methods)
    except argparse.ArgumentTypeError as error:
        arguments_parser.error(f"argument --methods: {error}")

    # Everything is checked before the first trial starts.
    protocol_overrides = [override for override in options.overrides if not names_plugin(override)]
    request = Search(options.trials, " ".join(protocol_overrides), options.only)
    folder = (options.config_dir or CONF) / "tuned"
    earlier = searches(folder, options.experiment)
    for method in methods:
        check_replaceable(target(folder, options.experiment, method), earlier.get(method), request)
    if options.config_dir is None:
        check_protocol(options.experiment, methods[0], options.overrides)

    only = [key for key in options.only.split(",") if key] or None
    known = {key for method in methods for key in search_space(method, options.config_dir)}
    for key in only or ():
        if key not in known:
            raise ConfigError(
                f"--only has an unknown setting, {key}{suggestion(key, known)} The ranges are in conf/tune."
            )

    plan_trials = partial(
        plan,
        options.experiment,
        count=options.trials,
        extra=options.overrides,
        only=only,
        config_dir=options.config_dir,
    )
    planned = plan_trials(methods)
    train(
        [trial.run for method_trials in planned.values() for trial in method_trials], options.jobs, "nothing is chosen"
    )

    # The report also covers methods that an earlier, equal search has tuned completely.
    same_search = [method for method, search in earlier.items() if search == request and method not in planned]
    others = plan_trials(same_search)
    planned |= {
        method: method_trials
        for method, method_trials in others.items()
        if all(trial.run.files.finished() for trial in method_trials)
    }
    trials = {
        method: [Trial(method, trial.settings, trial.run.files.finished()) for trial in method_trials]
        for method, method_trials in planned.items()
    }

    report = tuning_report(options.experiment, trials, remarks(trials, earlier, request, options.config_dir))
    results = planned[methods[0]][0].run.config.paths.results_of(options.experiment)
    name = results / "tuning" if options.config_dir is None else folder / f"{options.experiment}_tuning"
    files = {Path(f"{name}.md"): report, Path(f"{name}.csv"): trials_as_frame(trials).to_csv(index=False)}
    for method in methods:
        if best(trials[method]) is not None:
            files[target(folder, options.experiment, method)] = tuned_file(trials[method], request)

    for path, text in files.items():
        write_atomically(path, text.encode())
    print(report)
    print(f"Written: {', '.join(map(str, files))}")


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


def check_protocol(experiment: str, method: str, overrides: list[str]) -> None:
    """Check that the overrides do not change the preset's protocol.

    Raises:
        ConfigError: trials with these overrides would have other settings than runs of the preset.
    """
    preset, changed = (
        RunSpec.resolve(compose([f"experiment={experiment}", f"optimizer={method}", "~tuned", *each])).identity
        for each in ([], overrides)
    )
    if preset | {"seed": None} != changed | {"seed": None}:
        raise ConfigError(
            f"{' '.join(overrides)} changes the protocol of {experiment}. Add --config-dir mine to write the tuned "
            "values to a folder of your own; runs with the same option use them."
        )


def plan(
    experiment: str,
    methods: list[str],
    count: int,
    extra: list[str],
    only: list[str] | None = None,
    config_dir: Path | None = None,
) -> dict[str, list[Planned]]:
    """Compose and check the trials of each method.

    Args:
        count: number of trials of each method.
        extra: settings of all trials in addition to the preset.
        only: the settings to tune; None for all that a method has ranges for.
        config_dir: the user's own configuration folder, if any.

    Raises:
        UserError: a trial has invalid settings, `extra` has a setting that tuning sets itself, or a method has none of
            the settings in `only`.
    """
    trials = []
    for method in methods:
        all_ranges = search_space(method, config_dir)
        space = {key: ends for key, ends in all_ranges.items() if only is None or key in only}
        if not space:
            raise ConfigError(
                f"--only {','.join(only or ())}: {method} has none of these. It has {', '.join(all_ranges)}"
            )
        for override in extra:
            if (key := override.partition("=")[0].lstrip("+")) in (*space, *OURS):
                raise ConfigError(f"{override}: {key} cannot be set in tuning; leave it out")

        common = [f"experiment={experiment}", f"optimizer={method}", "~tuned", "data.split=val", *extra]
        preset = flat(compose(common, config_dir).identity())
        preset_values = {key: preset[key] for key in space}
        for settings in [preset_values, *points(space, count - 1)]:
            overrides = [*common, *(f"{key}={value!r}" for key, value in settings.items())]
            trials.append((method, settings, overrides))

    runs = plan_runs(
        [(f"{method}  {written(settings)}", overrides) for method, settings, overrides in trials], config_dir
    )
    planned: dict[str, list[Planned]] = {}
    for (method, settings, _), run in zip(trials, runs, strict=True):
        planned.setdefault(method, []).append(Planned(method, settings, run))
    return planned


def points(space: Mapping[str, Range], count: int) -> list[dict[str, float]]:
    """Return points of a space, evenly spread on logarithmic scales, with three significant digits.

    The first points do not depend on `count`.
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
    trials: Mapping[str, list[Trial]], earlier: Mapping[str, Search], request: Search, config_dir: Path | None
) -> list[str]:
    """Return remarks for the report.

    They name the settings of all trials, best values at the ends of their ranges, and methods that were tuned by a
    different search.
    """
    sentences = [f"All with {request.overrides}."] if request.overrides else []

    for method, method_trials in trials.items():
        space = {
            key: ends for key, ends in search_space(method, config_dir).items() if key in method_trials[0].settings
        }
        chosen = best(method_trials)
        for key in at_ends(chosen.settings, space) if chosen else ():
            least, greatest = space[key]
            sentences.append(
                f"{METHODS[method].title}: the best {key}, {chosen.settings[key]:g}, lies at an end of its range, "
                f"{least:g} to {greatest:g}: widen it in conf/tune/ and tune again."
            )

    for method, search in earlier.items():
        if method not in trials and search != request:
            sentences.append(
                f"{METHODS[method].title}'s values are {search.what()}: they are not to be compared with these."
            )
    return sentences


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


if __name__ == "__main__":
    main(sys.argv[1:])
