"""Runs that are checked together before any of them is begun, and then trained side by side."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sam_bench.cli.compose import compose
from sam_bench.cli.main import EXIT_RESUMABLE, EXIT_RUN
from sam_bench.config.schema import Config
from sam_bench.runs.record import RunFiles
from sam_bench.runs.run import check
from scripts.programs import Programs


@dataclass(frozen=True)
class PlannedRun:
    """A run, before it is begun.

    Args:
        title: what the display calls it.
        words: its command line.
    """

    title: str
    words: list[str]
    config: Config
    files: RunFiles


def plan(runs: list[tuple[str, list[str]]], config_dir: Path | None = None) -> list[PlannedRun]:
    """Compose and check runs, given by title and overrides, with a folder of the user's own beside `conf/`.

    Raises:
        UserError: one of them cannot be run.
    """
    folder = [] if config_dir is None else ["--config-dir", str(config_dir)]
    composed = [(title, [*folder, *overrides], compose(overrides, config_dir)) for title, overrides in runs]
    specs = check([config for *_, config in composed])
    return [PlannedRun(*run, specs[run[-1]].files) for run in composed]


def train(planned: list[PlannedRun], at_once: int, otherwise: str) -> None:
    """Train those that are not finished, in their order; ends this process where one is left without a result.

    Args:
        at_once: how many side by side; they share the cores.
        otherwise: what is said to be missing then.
    """
    waiting = [run for run in planned if run.files.finished() is None]
    print(f"{len(planned)} runs, {len(planned) - len(waiting)} of them done, {at_once} at once", flush=True)
    threads = max((os.cpu_count() or 1) // at_once, 1)
    programs = Programs(at_once, {"OMP_NUM_THREADS": str(threads)} | os.environ)
    count = len(planned) - len(waiting)

    def ended(number: int, code: int) -> None:
        nonlocal count
        run = waiting[number]
        if record := run.files.finished():
            count += 1
            error = "diverged" if record["status"] == "diverged" else f"{record['test_error']:.2f} %"
            print(f"{count}/{len(planned)}  {run.title}  {error}", flush=True)

    commands = [["-m", "sam_bench", *run.words, "trainer.progress=none"] for run in waiting]
    programs.run(commands, ended)
    missing = sum(run.files.finished() is None for run in planned)
    if missing:
        interrupted = programs.stopped is not None
        reason = "interrupted" if interrupted else "failed"
        text = f"{missing} of {len(planned)} runs have no result ({reason}), so {otherwise}"
        print(f"{text}. The same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_RESUMABLE if interrupted else EXIT_RUN)
