"""Tune methods under an experiment: the same number of trials for each, on images held out of the training set.

python scripts/tune.py --experiment noisy40 --methods sgd,sam --trials 12

A trial is a run with data.split=val: nothing of the test set is used. A method's first trial has the preset's own
values, the others are points of a Sobol sequence in its ranges (conf/tune/). The best of them, by the held-out error of
the last epoch, is written to conf/tuned/<experiment>_<method>.yaml, from where every later run takes it, unless it says
~tuned; all trials are written to results/<experiment>/tuning.{md,csv}. Interrupted, the same command goes on where it
was; with more trials, those that are done count.

What follows the options are settings of all trials, such as trainer.device=cpu.
"""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import qmc

from sam_bench.cli.compose import CONF, compose
from sam_bench.cli.main import EXIT_RESUMABLE, EXIT_RUN
from sam_bench.cli.search_space import Range, search_space
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError, StateError
from sam_bench.optim.registry import METHODS
from sam_bench.report.tuning import Trial, at_ends, best, trials_as_frame, tuning_report, written
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import RunFiles
from sam_bench.runs.run import check
from scripts.arguments import at_least, errors_as_messages, jobs, names_of, parser
from scripts.programs import Programs

SOBOL = {"d": 8, "scramble": True, "rng": 0}
"""The sequence. Every method has the same points, and takes as many of their dimensions as it has settings: with the
common ones first, all try the same learning rates and weight decays."""

WRITTEN_BY = "# Written by scripts/tune.py"
"""How a file begins that tuning may replace."""


@dataclass(frozen=True)
class Planned:
    """A trial, before it is run."""

    method: str
    settings: Mapping[str, float]
    overrides: list[str]
    config: Config
    files: RunFiles


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("--experiment", required=True, help="preset that is tuned")
    words.add_argument("--methods", default="sgd,sam,asam,gsam", type=_methods, help="of optimization, or all")
    words.add_argument("--trials", default=12, type=at_least(1), help="of each method")
    words.add_argument("--jobs", default=jobs(), type=at_least(1), help="trials at once, which share the cores")
    words.add_argument("--tuned", default=CONF / "tuned", type=Path, help="folder of the values that are chosen")
    words.add_argument("overrides", nargs="*", help="settings of all trials")
    options = words.parse_intermixed_args(arguments)
    spaces = {method: search_space(method) for method in options.methods}
    targets = {method: options.tuned / f"{options.experiment}_{method}.yaml" for method in options.methods}
    for path in targets.values():
        _check_replaceable(path)
    planned = plan(options.experiment, spaces, options.trials, options.overrides)
    train(planned, options.jobs)
    trials = {
        method: [Trial(each.method, each.settings, each.files.finished()) for each in planned if each.method == method]
        for method in options.methods
    }
    remarks = [remark for method in trials for remark in ends(method, trials[method], spaces[method])]
    report = tuning_report(options.experiment, trials, remarks)
    folder = planned[0].config.paths.results_of(options.experiment)
    write_atomically(folder / "tuning.md", report.encode())
    write_atomically(folder / "tuning.csv", trials_as_frame(trials).to_csv(index=False).encode())
    for method, path in targets.items():
        if (chosen := best(trials[method])) is not None:
            write_atomically(path, tuned_file(trials[method], chosen, options.overrides).encode())
    print(report)
    print(f"Written: {folder}/tuning.md and .csv, {', '.join(str(path) for path in targets.values())}")


def plan(experiment: str, spaces: Mapping[str, Mapping[str, Range]], count: int, extra: list[str]) -> list[Planned]:
    """Return all trials, those of a method in a row; each is checked before any is run.

    Raises:
        UserError: one of them cannot be run, or would not be measured on the held-out split.
    """
    found = []
    for method, space in spaces.items():
        common = [f"experiment={experiment}", f"optimizer={method}", "~tuned", *extra, "data.split=val"]
        preset = compose(common)
        if preset.data.split != "val":
            raise ConfigError(f"data.split={preset.data.split} would tune on the test set: leave it out")
        own = {key: _value(preset, key) for key in space}
        for settings in [own, *points(space, count - 1)]:
            overrides = [*common, *(f"{key}={value!r}" for key, value in settings.items())]
            found.append((method, settings, overrides, compose(overrides)))
    specs = check([config for *_, config in found])
    return [Planned(*each, specs[each[-1]].files) for each in found]


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


def train(planned: list[Planned], at_once: int) -> None:
    """Run the trials that are not finished; ends this process where one is left without a result."""
    waiting = [each for each in planned if each.files.finished() is None]
    print(f"{len(planned)} trials, {len(planned) - len(waiting)} of them done, {at_once} at once", flush=True)
    threads = max((os.cpu_count() or 1) // at_once, 1)
    programs = Programs(at_once, {"OMP_NUM_THREADS": str(threads)} | os.environ)
    count = len(planned) - len(waiting)

    def ended(number: int, code: int) -> None:
        nonlocal count
        trial = waiting[number]
        if record := trial.files.finished():
            count += 1
            error = "diverged" if record["status"] == "diverged" else f"{record['test_error']:.2f} %"
            print(f"{count}/{len(planned)}  {trial.method}  {written(trial.settings)}  {error}", flush=True)

    commands = [["-m", "sam_bench", *each.overrides, "trainer.progress=none"] for each in waiting]
    programs.run(commands, ended)
    missing = sum(each.files.finished() is None for each in planned)
    if missing:
        reason = "interrupted" if programs.stopped is not None else "failed"
        text = f"{missing} of {len(planned)} trials have no result ({reason}), so nothing is chosen"
        print(f"{text}. The same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_RESUMABLE if programs.stopped is not None else EXIT_RUN)


def ends(method: str, trials: list[Trial], space: Mapping[str, Range]) -> list[str]:
    """Return what is to be said of the best trial's values at ends of their ranges."""
    chosen = best(trials)
    return [
        f"{METHODS[method].title}: the best {key}, {chosen.settings[key]:g}, lies at an end of its range, "
        f"{space[key][0]:g} to {space[key][1]:g}: widen it in conf/tune/ and tune again."
        for key in (at_ends(chosen.settings, space) if chosen else ())
    ]


def tuned_file(trials: list[Trial], chosen: Trial, extra: list[str]) -> str:
    """Return the content of a method's file in `conf/tuned`: the values, and the trials behind them."""
    seed = chosen.record["seed"]
    with_extra = f", {' '.join(extra)}" if extra else ""
    lines = [
        "# @package _global_",
        f"{WRITTEN_BY}: the least held-out error of {len(trials)} trials (seed {seed}{with_extra}), last epoch.",
    ]
    for trial in sorted(trials, key=lambda trial: (trial.diverged, trial.error)):
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


def _methods(text: str) -> list[str]:
    return list(METHODS) if text == "all" else names_of(METHODS, "optimizer")(text)


def _check_replaceable(path: Path) -> None:
    """Find out whether a file is tuning's own.

    Raises:
        StateError: it is somebody's.
    """
    if path.exists() and WRITTEN_BY not in path.read_text():
        raise StateError(f"{path} was not written by tuning: move it away, or tune another preset")


def _value(config: Config, key: str) -> float:
    place = config
    for name in key.split("."):
        place = getattr(place, name)
    return place


if __name__ == "__main__":
    main(sys.argv[1:])
