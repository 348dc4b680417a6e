"""The search for a method's settings: its trials, what they are checked for, and the report."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.parallel import PlannedRun, plan, train
from sam_bench.cli.search_space import points, search_space
from sam_bench.cli.tuned_files import Search, check_replaceable, searches, target, tuned_file
from sam_bench.errors import ConfigError
from sam_bench.lookup import suggestion
from sam_bench.optim.registry import METHODS
from sam_bench.report.tuning import Trial, at_ends, best, trials_as_frame, tuning_report, written
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import flat
from sam_bench.runs.spec import RunSpec

#: Settings that tuning sets itself, or that its ranges depend on.
OURS = ("data.split", "experiment", "optimizer", "optimizer/base", "tuned", "~tuned")


@dataclass(frozen=True)
class Planned:
    """A trial that has not been run."""

    method: str
    settings: Mapping[str, float]
    run: PlannedRun


def tune(
    experiment: str,
    methods: Sequence[str],
    search: Search,
    overrides: list[str],
    at_once: int | None = None,
    config_dir: Path | None = None,
) -> None:
    """Do the trials that are missing, write each method's best values, and write and print the report.

    Exits with an error code if a trial ends without a result.

    Args:
        search: the number of trials and what is tuned, as the files of values say it.
        overrides: settings of all trials in addition to the preset, with that of a plug-in.
        at_once: number of trials in parallel; by default the fastest.
        config_dir: the user's own configuration folder, if any.

    Raises:
        UserError: a trial has invalid settings, or a file of tuned values must not be overwritten.
    """
    # Everything is checked before the first trial starts.
    folder = (config_dir or CONF) / "tuned"
    earlier = searches(folder, experiment)
    for method in methods:
        check_replaceable(target(folder, experiment, method), earlier.get(method), search)
    if config_dir is None:
        check_protocol(experiment, methods[0], overrides)
    only = [key for key in search.only.split(",") if key] or None
    check_known(only or (), methods, config_dir)

    plan_of = partial(plan_trials, experiment, count=search.trials, extra=overrides, only=only, config_dir=config_dir)
    planned = plan_of(methods)
    runs = [trial.run for method_trials in planned.values() for trial in method_trials]
    if code := train(runs, at_once, "nothing is chosen"):
        sys.exit(code)

    # The report also covers methods that an earlier, equal search has tuned completely.
    others = plan_of([method for method, before in earlier.items() if before == search and method not in planned])
    planned |= {
        method: method_trials
        for method, method_trials in others.items()
        if all(trial.run.files.finished() for trial in method_trials)
    }
    trials = {
        method: [Trial(method, trial.settings, trial.run.files.finished()) for trial in method_trials]
        for method, method_trials in planned.items()
    }

    report = tuning_report(experiment, trials, remarks(trials, earlier, search, config_dir))
    results = runs[0].config.paths.results_of(experiment)
    name = results / "tuning" if config_dir is None else folder / f"{experiment}_tuning"
    files = {Path(f"{name}.md"): report, Path(f"{name}.csv"): trials_as_frame(trials).to_csv(index=False)}
    for method in methods:
        if best(trials[method]) is not None:
            files[target(folder, experiment, method)] = tuned_file(trials[method], search)

    for path, text in files.items():
        write_atomically(path, text.encode())
    print(report)
    print(f"Written: {', '.join(map(str, files))}")


def check_known(only: Sequence[str], methods: Sequence[str], config_dir: Path | None) -> None:
    """Check that the settings to tune have a range for at least one of the methods.

    Raises:
        ConfigError: a setting has none.
    """
    known = {key for method in methods for key in search_space(method, config_dir)}
    for key in only:
        if key not in known:
            raise ConfigError(
                f"--only has an unknown setting, {key}{suggestion(key, known)} The ranges are in conf/tune.yaml."
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


def plan_trials(
    experiment: str,
    methods: Sequence[str],
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

    runs = plan([(f"{method}  {written(settings)}", overrides) for method, settings, overrides in trials], config_dir)
    planned: dict[str, list[Planned]] = {}
    for (method, settings, _), run in zip(trials, runs, strict=True):
        planned.setdefault(method, []).append(Planned(method, settings, run))
    return planned


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
                f"{least:g} to {greatest:g}: widen it in conf/tune.yaml and tune again."
            )

    for method, search in earlier.items():
        if method not in trials and search != request:
            sentences.append(
                f"{METHODS[method].title}'s values are {search.what()}: they are not to be compared with these."
            )
    return sentences
