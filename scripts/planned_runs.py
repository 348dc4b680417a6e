"""Runs that are all checked before the first one starts, and then trained in parallel."""

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
    """A run that has not started.

    Args:
        title: its name in the output.
        words: its command line.
    """

    title: str
    words: list[str]
    config: Config
    files: RunFiles


def plan(runs: list[tuple[str, list[str]]], config_dir: Path | None = None) -> list[PlannedRun]:
    """Compose and check runs.

    Args:
        runs: the title and the overrides of each.
        config_dir: the user's own configuration folder, searched before `conf/`.

    Raises:
        UserError: one of the runs has invalid settings.
    """
    config_dir_options = [] if config_dir is None else ["--config-dir", str(config_dir)]
    composed = [(title, [*config_dir_options, *overrides], compose(overrides, config_dir)) for title, overrides in runs]
    specs = check([config for *_, config in composed])
    return [PlannedRun(*run, specs[run[-1]].files) for run in composed]


def train(planned: list[PlannedRun], at_once: int, consequence: str) -> None:
    """Train the runs that are not finished, in their order; exit with an error code if one ends without a result.

    Args:
        at_once: number of runs in parallel, which share the CPU cores.
        consequence: what to report if results are missing, such as "nothing is compared".
    """
    waiting = [run for run in planned if run.files.finished() is None]
    print(f"{len(planned)} runs, {len(planned) - len(waiting)} of them done, {at_once} at once", flush=True)

    threads = max((os.cpu_count() or 1) // at_once, 1)
    programs = Programs(at_once, {"OMP_NUM_THREADS": str(threads)} | os.environ)
    done = len(planned) - len(waiting)

    def report_end(number: int, code: int) -> None:
        nonlocal done
        run = waiting[number]
        if record := run.files.finished():
            done += 1
            error = "diverged" if record["status"] == "diverged" else f"{record['test_error']:.2f} %"
            print(f"{done}/{len(planned)}  {run.title}  {error}", flush=True)

    commands = [["-m", "sam_bench", *run.words, "trainer.progress=none"] for run in waiting]
    programs.run(commands, report_end)

    missing = sum(run.files.finished() is None for run in planned)
    if missing:
        interrupted = programs.stopped is not None
        reason = "interrupted" if interrupted else "failed"
        text = f"{missing} of {len(planned)} runs have no result ({reason}), so {consequence}"
        print(f"{text}. Run the same command again to continue.", file=sys.stderr)
        sys.exit(EXIT_RESUMABLE if interrupted else EXIT_RUN)
