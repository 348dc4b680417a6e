"""The training of missing runs, several at once, each in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sam_bench.cli.compose import compose
from sam_bench.cli.exit_codes import EXIT_RESUMABLE, EXIT_RUN
from sam_bench.config.schema import Config
from sam_bench.runs.record import RunFiles
from sam_bench.runtime.signals import SIGNALS


@dataclass(frozen=True)
class PlannedRun:
    """A run that has been checked, and may be finished already.

    Args:
        title: its name in the output.
        arguments: its command line, after `python -m sam_bench`.
    """

    title: str
    arguments: list[str]
    config: Config
    files: RunFiles


def plan(runs: Sequence[tuple[str, list[str]]], config_dir: Path | None = None) -> list[PlannedRun]:
    """Compose and check runs.

    Args:
        runs: the title and the overrides of each.
        config_dir: the user's own configuration folder, searched before `conf/`.

    Raises:
        UserError: one of the runs has invalid settings, or cannot be done on this machine.
    """
    from sam_bench.runs.run import check  # imports torch, which takes seconds

    config_dir_options = [] if config_dir is None else ["--config-dir", str(config_dir)]
    composed = [(title, [*config_dir_options, *overrides], compose(overrides, config_dir)) for title, overrides in runs]
    specs = check([config for *_, config in composed])
    return [PlannedRun(*run, specs[run[-1]].files) for run in composed]


def train(planned: Sequence[PlannedRun], at_once: int | None, consequence: str, show_epochs: bool = False) -> int:
    """Train the runs that are not finished, in their order, and return the exit code of the command.

    Args:
        at_once: number of runs in parallel, which share the CPU cores; by default the fastest.
        consequence: what to report if results are missing, such as "nothing is compared".
        show_epochs: True shows the progress of each run, too.

    Returns:
        0 if every run has a result, `EXIT_RESUMABLE` after an interruption, `EXIT_RUN` if a run failed.
    """
    at_once = at_once or _fastest_at_once()
    # Runs side by side show plain lines, since their bars would overwrite each other.
    progress = "none" if not show_epochs else "auto" if at_once == 1 else "plain"
    waiting = [run for run in planned if run.files.finished() is None]
    done = len(planned) - len(waiting)
    print(f"{len(planned)} runs, {done} of them done, {at_once} at once", flush=True)

    threads = max((os.cpu_count() or 1) // at_once, 1)
    programs = Programs(at_once, {"OMP_NUM_THREADS": str(threads)} | os.environ)

    def report_end(number: int, code: int) -> None:
        nonlocal done
        run = waiting[number]
        if record := run.files.finished():
            done += 1
            error = "diverged" if record["status"] == "diverged" else f"{record['test_error']:.2f} %"
            print(f"{done}/{len(planned)}  {run.title}  {error}", flush=True)
        elif programs.stopped is None:
            print(f"{run.title} has no result: its process ended with exit code {code}", file=sys.stderr, flush=True)

    commands = [["-m", "sam_bench", *run.arguments, f"trainer.progress={progress}"] for run in waiting]
    programs.run(commands, report_end)

    missing = sum(run.files.finished() is None for run in planned)
    if not missing:
        return 0
    interrupted = programs.stopped is not None
    reason = "interrupted" if interrupted else "failed"
    text = f"{missing} of {len(planned)} runs have no result ({reason}), so {consequence}"
    print(f"{text}. Run the same command again to continue.", file=sys.stderr, flush=True)
    return EXIT_RESUMABLE if interrupted else EXIT_RUN


def _fastest_at_once() -> int:
    """Return how many runs at once train fastest: one on a GPU, two on a CPU with several cores."""
    import torch

    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


class Programs:
    """Child processes that run Python programs.

    A signal that asks this process to end is passed on to the running programs, so that they can save their state. No
    further program is started then.

    Args:
        at_once: number of programs that run in parallel.
        environment: environment variables of the programs; by default those of this process.
    """

    def __init__(self, at_once: int = 1, environment: Mapping[str, str] | None = None):
        self.at_once = at_once
        self.environment = environment
        self.running: set[subprocess.Popen] = set()
        #: Number of the signal that was received, if any.
        self.stopped: int | None = None

    def run(
        self, programs: Sequence[Sequence[str]], on_end: Callable[[int, int], None] = lambda number, code: None
    ) -> list[int | None]:
        """Run the programs, and wait until all have ended.

        Args:
            programs: Python's command-line arguments for each program.
            on_end: called with a program's index and its exit code when it has ended.

        Returns:
            The exit code of each program; None for one that was not started.
        """

        def run_program(number: int) -> int | None:
            if self.stopped is not None:
                return None
            process = subprocess.Popen([sys.executable, *programs[number]], env=self.environment)
            self.running.add(process)
            if self.stopped is not None:  # the signal came while the process was starting
                process.send_signal(self.stopped)
            code = process.wait()
            self.running.discard(process)
            on_end(number, code)
            return code

        previous_handlers = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            with ThreadPoolExecutor(self.at_once) as pool:
                return list(pool.map(run_program, range(len(programs))))
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped = number
        for process in tuple(self.running):
            process.send_signal(number)
