"""The command line: composes, checks, calls `run`; of a sweep, each run's outcome and their sum."""

import contextlib
import math
import os
import signal
import sys
import traceback
import typing
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sam_bench.cli.compose import CONF, CONFIG_NAME, PLUGIN, Asked, composing, new_command, read, requested
from sam_bench.cli.launchers import launcher
from sam_bench.cli.sweep import Outcome, Sweep, summary
from sam_bench.config.schema import Config
from sam_bench.errors import Busy, ConfigError, Interrupted, MainProcessFailed, StateError, UserError
from sam_bench.runtime.environment import check_processes, is_main_process, rank
from sam_bench.runtime.output import lossy_output
from sam_bench.runtime.signals import SIGNALS, Interruption

if typing.TYPE_CHECKING:
    from sam_bench.runs.spec import RunSpec

EXIT_RUN = 1
"""A run failed."""
EXIT_CONFIG = 2
"""Nothing was begun."""
EXIT_RESUMABLE = 75
"""Runs were asked to end; the same command goes on."""
EXIT_INTERRUPTED = 130
"""Ctrl-C came outside of a run."""

AGAIN = "The same command goes on from the last checkpoints, where there are any."

_specs: dict[Config, "RunSpec"] = {}
"""What this process has worked out of its runs; a worker elsewhere works it out itself."""


def main() -> None:
    """The command line. Every run that it asks for is composed and checked before anything is created."""
    with lossy_output():
        _main()


def _main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here as they are; what is shown of them is decided below
    new_command()
    try:
        check_processes()
        asked = requested(get_args_parser().parse_args())
        if asked.configs and asked.configs[0].plugin is not None:
            os.environ[PLUGIN] = asked.configs[0].plugin
        if asked.configs:
            _check(asked)
        if asked.sweep is None:
            with composing():
                _hydra_main()
        else:
            sys.exit(_sweep(asked))
    except UserError as error:
        _stop(EXIT_CONFIG, error)
    except KeyboardInterrupt:
        _stop(EXIT_INTERRUPTED, f"Interrupted. {AGAIN}")


def _check(asked: Asked) -> None:
    """Find out whether all runs can be done, and keep what was worked out of them.

    Raises:
        UserError: one of them cannot.
    """
    from sam_bench.runs import run  # imports torch, which is worth its seconds only now

    if asked.needs_gpu and not run.has_gpu():
        raise ConfigError("Ray would wait for a GPU, and there is none here: hydra.launcher.ray.remote.num_gpus=0")
    _specs.clear()
    _specs.update(run.check(asked.configs, here=launcher(asked.launcher).local))


def _sweep(asked: Asked) -> int:
    """Let Hydra launch the runs of a sweep, and say what became of them; returns the exit code."""
    code = 0
    asked.sweep.begin()
    told = launcher(asked.launcher).stopped_by_file
    workers = Interruption(tell=asked.sweep.stop) if told else contextlib.nullcontext()
    try:
        with workers, composing():
            _hydra_main()
    except SystemExit as stop:  # a run was asked to end, and with it the sweep
        code = stop.code
    except KeyboardInterrupt:
        waiting = "SLURM's jobs go on; scancel makes them save and end" if "slurm" in asked.launcher else AGAIN
        print(f"Interrupted. {waiting}", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except Exception as error:  # the launcher's: a killed worker, a job that a scheduler gave up
        print(f"Error: hydra/launcher={asked.launcher} failed: {str(error).strip() or repr(error)}", file=sys.stderr)
        code = EXIT_RUN
    outcomes = asked.sweep.outcomes(asked.titles)
    print(summary(outcomes), flush=True)
    if asked.sweep.stopped or any(outcome.status == "interrupted" for outcome in outcomes):
        return EXIT_RESUMABLE
    return code or EXIT_RUN * any(outcome.status in ("failed", "busy", "unfinished") for outcome in outcomes)


def attempt(config: Config, words: str = "", asked_to_end: Callable[[], bool] = lambda: False) -> Outcome:
    """Do a run, or find it done; an error is shown, and is part of the outcome.

    Args:
        words: that ask for it, its title until its name is known.

    Raises:
        Interrupted: it was asked to end.
    """
    from sam_bench.runs.record import objective_of
    from sam_bench.runs.run import run
    from sam_bench.runs.spec import RunSpec

    title = words
    try:
        spec = _specs.get(config) or RunSpec.resolve(config)
        title = spec.run_id
        record, new = run(spec, asked_to_end)
        status = record["status"]
        if not new and is_main_process() and config.trainer.progress != "none":
            print(f"{title}  {status} before, {spec.files.record}; trainer.rerun=true runs it again", flush=True)
        status = "skipped" if not new and status == "finished" else status
        return Outcome(title, status, objective=objective_of(record))
    except Interrupted as interrupted:
        interrupted.title = title
        raise
    except Exception as error:
        who = "" if is_main_process() else f" (process {rank()})"
        if not isinstance(error, UserError):
            traceback.print_exc()
        elif not isinstance(error, MainProcessFailed):
            print(f"Error{who}: {error}", file=sys.stderr, flush=True)
        status = "busy" if isinstance(error, Busy) else "failed"
        return Outcome(title, status, f"{type(error).__name__}: {error}".splitlines()[0])


def _task(cfg: DictConfig) -> float:
    """Do one run, in whatever process a launcher has chosen for it.

    Returns:
        The error that a sweeper minimises, in percent; NaN where the run has no result.
    """
    with lossy_output():  # a worker's own; in the command's process there is one already
        outcome = _do(cfg)
    return math.nan if outcome is None or outcome.objective is None else outcome.objective


def _do(cfg: DictConfig) -> Outcome | None:
    hydra_config = HydraConfig.get()
    config = read(cfg, hydra_config.runtime.choices)
    if hydra_config.mode == RunMode.MULTIRUN:
        return _run_of_sweep(config, hydra_config)
    try:
        outcome = attempt(config)
    except Interrupted as interrupted:
        if is_main_process():
            print(interrupted, file=sys.stderr, flush=True)
        sys.exit(EXIT_RESUMABLE)
    if outcome.status in ("failed", "busy"):
        sys.exit(EXIT_RUN)
    return outcome


def _run_of_sweep(config: Config, hydra_config: DictConfig) -> Outcome | None:
    """Do one of a sweep's runs, and keep its outcome in the sweep's folder, whichever machine that is on.

    Returns:
        The outcome; None where the sweep was stopped before.
    """
    sweep = Sweep(Path(hydra_config.sweep.dir))
    launched_by = hydra_config.runtime.choices["hydra/launcher"]
    words = " ".join(hydra_config.overrides.task)
    number = hydra_config.job.num
    if sweep.stopped:
        return None
    by_signal = False
    of_sweep = os.getppid()
    if launched_by == "joblib":  # signals are for the process of the sweep, which lets its workers know
        for number_of_signal in SIGNALS:
            signal.signal(number_of_signal, signal.SIG_IGN)

    def asked_to_end() -> bool:
        return launcher(launched_by).stopped_by_file and (sweep.stopped or os.getppid() != of_sweep)

    try:
        outcome = attempt(config, words, asked_to_end)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr, flush=True)
        status = "finished" if interrupted.finished else "interrupted"
        by_signal = interrupted.by_signal
        outcome = Outcome(interrupted.title, status)
    ends = outcome.status == "interrupted" or by_signal
    if ends and by_signal and launcher(launched_by).requeues:
        sys.exit(EXIT_RESUMABLE)
    try:
        sweep.note(number, outcome)
        if ends and launched_by == "joblib":
            sweep.stop()
    except StateError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
    if launched_by == "joblib" and os.getppid() != of_sweep:  # the sweep was killed: nobody waits for this process
        os._exit(EXIT_RESUMABLE)
    if ends and launched_by == "basic":
        sys.exit(EXIT_RESUMABLE)
    return outcome


_hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=CONFIG_NAME)(_task)


def _stop(code: int, message: object) -> typing.NoReturn:
    if is_main_process():
        print(f"Error: {message}" if code != EXIT_INTERRUPTED else message, file=sys.stderr)
    sys.exit(code)
