"""The command line: a command, or else runs, which are composed, checked and trained, with a summary of a sweep."""

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
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sam_bench.cli.commands import is_command, run_command
from sam_bench.cli.compose import CONFIG_NAME, PLUGIN, new_command, read
from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.exit_codes import EXIT_CONFIG, EXIT_INTERRUPTED, EXIT_RESUMABLE, EXIT_RUN
from sam_bench.cli.explain import composing
from sam_bench.cli.hydra_private import get_args_parser
from sam_bench.cli.launchers import launcher
from sam_bench.cli.request import RunRequest, read_request
from sam_bench.cli.sweep import Outcome, Sweep, summary
from sam_bench.config.schema import Config
from sam_bench.errors import Busy, ConfigError, Interrupted, MainProcessFailed, StateError, UserError
from sam_bench.runtime.environment import check_processes, is_main_process, rank
from sam_bench.runtime.output import lossy_output
from sam_bench.runtime.signals import SIGNALS, Interruption

if typing.TYPE_CHECKING:
    from sam_bench.runs.spec import RunSpec

AGAIN = "The same command continues from the last checkpoints, if there are any."

#: The specs that this process has resolved in its checks, by config. A worker in another process resolves its own.
_specs: dict[Config, "RunSpec"] = {}


def main() -> None:
    """Run the command line: a command if its first word may be one, else the runs that it asks for."""
    arguments = sys.argv[1:]
    with lossy_output():
        try:
            if arguments and is_command(arguments[0]):
                run_command(arguments[0], arguments[1:])
            else:
                _do_runs()
        except UserError as error:
            _stop(EXIT_CONFIG, error)
        except KeyboardInterrupt:
            _stop(EXIT_INTERRUPTED, f"Interrupted. {AGAIN}")


def _do_runs() -> None:
    """Do what the command line asks Hydra for. Every run is composed and checked before anything is created.

    Raises:
        UserError: a run cannot be done.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    new_command()
    check_processes()
    request = read_request(get_args_parser().parse_args())

    # Workers of a sweep load the plug-in too, but do not see the command line.
    if request.configs and request.configs[0].plugin is not None:
        os.environ[PLUGIN] = request.configs[0].plugin

    if request.configs:
        _check(request)
    if request.sweep is None:
        with composing():
            _hydra_main()
    else:
        sys.exit(_sweep(request))


def _check(request: RunRequest) -> None:
    """Check that every run can be done, and keep the resolved specs.

    Raises:
        UserError: a run cannot be done.
    """
    from sam_bench.runs import run  # imports torch, which takes seconds

    if request.needs_gpu and not run.has_gpu():
        raise ConfigError(
            "hydra/launcher=ray waits for a GPU, and this machine has none: set hydra.launcher.ray.remote.num_gpus=0"
        )
    _specs.clear()
    _specs.update(run.check(request.configs, here=launcher(request.launcher).local))


def _sweep(request: RunRequest) -> int:
    """Let Hydra launch the runs of a sweep, print a summary, and return the exit code."""
    code = 0
    request.sweep.begin()

    # Workers that watch the sweep's folder get no signal: a signal to this process creates the stop file.
    uses_stop_file = launcher(request.launcher).stopped_by_file
    stop_on_signal = Interruption(tell=request.sweep.stop) if uses_stop_file else contextlib.nullcontext()

    try:
        with stop_on_signal, composing():
            _hydra_main()
    except SystemExit as stop:  # a run was asked to end, and with it the sweep
        code = stop.code
    except KeyboardInterrupt:
        advice = (
            "The SLURM jobs keep running; scancel makes them save and end" if "slurm" in request.launcher else AGAIN
        )
        print(f"Interrupted. {advice}", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except Exception as error:  # from the launcher: a worker was killed, a scheduler gave up a job
        print(f"Error: hydra/launcher={request.launcher} failed: {str(error).strip() or repr(error)}", file=sys.stderr)
        code = EXIT_RUN

    outcomes = request.sweep.outcomes(request.titles)
    print(summary(outcomes), flush=True)
    if request.sweep.stopped or any(outcome.status == "interrupted" for outcome in outcomes):
        return EXIT_RESUMABLE
    return code or EXIT_RUN * any(outcome.status in ("failed", "busy", "unfinished") for outcome in outcomes)


def attempt(config: Config, words: str = "", asked_to_end: Callable[[], bool] = lambda: False) -> Outcome:
    """Do a run unless it is finished already, and return its outcome; an error is printed and kept in the outcome.

    Args:
        words: the run's overrides, which are its title until it has a name.
        asked_to_end: returns True once the sweep wants the run to end.

    Raises:
        Interrupted: the run was asked to end.
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
        process = "" if is_main_process() else f" (process {rank()})"
        if not isinstance(error, UserError):
            traceback.print_exc()
        elif not isinstance(error, MainProcessFailed):  # the main process prints its own error
            print(f"Error{process}: {error}", file=sys.stderr, flush=True)
        status = "busy" if isinstance(error, Busy) else "failed"
        return Outcome(title, status, f"{type(error).__name__}: {error}".splitlines()[0])


def _task(cfg: DictConfig) -> float:
    """Do one run, in the process that a launcher has chosen for it.

    Returns:
        The error that a sweeper minimises, in percent; NaN if the run has no result.
    """
    with lossy_output():  # for a worker's process; the command's own has it already
        outcome = _do_run(cfg)
    return math.nan if outcome is None or outcome.objective is None else outcome.objective


def _do_run(cfg: DictConfig) -> Outcome | None:
    hydra_config = HydraConfig.get()
    config = read(cfg, hydra_config.runtime.choices)
    if hydra_config.mode == RunMode.MULTIRUN:
        return _do_run_of_sweep(config, hydra_config)

    try:
        outcome = attempt(config)
    except Interrupted as interrupted:
        if is_main_process():
            print(interrupted, file=sys.stderr, flush=True)
        sys.exit(EXIT_RESUMABLE)
    if outcome.status in ("failed", "busy"):
        sys.exit(EXIT_RUN)
    return outcome


def _do_run_of_sweep(config: Config, hydra_config: DictConfig) -> Outcome | None:
    """Do one run of a sweep, and write its outcome into the sweep's folder, which all machines share.

    Returns:
        The outcome; None if the sweep was stopped before the run started.
    """
    sweep = Sweep(Path(hydra_config.sweep.dir))
    launched_by = hydra_config.runtime.choices["hydra/launcher"]
    overrides = " ".join(hydra_config.overrides.task)
    number = hydra_config.job.num
    if sweep.stopped:
        return None

    # Ctrl-C reaches joblib's workers too. The sweep's process handles it, and stops them by its stop file.
    by_signal = False
    parent = os.getppid()
    if launched_by == "joblib":
        for signal_number in SIGNALS:
            signal.signal(signal_number, signal.SIG_IGN)

    def asked_to_end() -> bool:
        return launcher(launched_by).stopped_by_file and (sweep.stopped or os.getppid() != parent)

    try:
        outcome = attempt(config, overrides, asked_to_end)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr, flush=True)
        status = "finished" if interrupted.finished else "interrupted"
        by_signal = interrupted.by_signal
        outcome = Outcome(interrupted.title, status)
    must_end = outcome.status == "interrupted" or by_signal

    # Without an outcome, the launcher starts this job again.
    if must_end and by_signal and launcher(launched_by).requeues:
        sys.exit(EXIT_RESUMABLE)

    try:
        sweep.write_outcome(number, outcome)
        if must_end and launched_by == "joblib":
            sweep.stop()
    except StateError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)

    if launched_by == "joblib" and os.getppid() != parent:  # the sweep was killed: no process waits for this one
        os._exit(EXIT_RESUMABLE)
    if must_end and launched_by == "basic":
        sys.exit(EXIT_RESUMABLE)
    return outcome


_hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=CONFIG_NAME)(_task)


def _stop(code: int, message: object) -> typing.NoReturn:
    if is_main_process():
        print(f"Error: {message}" if code != EXIT_INTERRUPTED else message, file=sys.stderr)
    sys.exit(code)
