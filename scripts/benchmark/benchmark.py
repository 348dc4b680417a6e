"""Measure the cost of training on this machine, beside its lower bound and a loop as many users write it.

python scripts/benchmark/benchmark.py --models resnet20 --no-scaling --minutes 10

Every case runs in a process of its own. The cases of a comparison take turns. Ratios are taken within a round, and the
report gives their medians over the rounds, with quartiles. Cases warm up one after the other, because torch chooses
convolutions and compiled kernels by timing them. A comparison ends after two minutes if at least 3 rounds are done.
Data and report are written after every comparison. Earlier files of the same name are kept under another name.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam_bench.cli.arguments import at_least, errors_as_messages, method_names, names_of, parser
from sam_bench.cli.conf_folder import choices
from sam_bench.errors import ConfigError, StateError, UserError
from sam_bench.runs.files import write_atomically
from sam_bench.runs.provenance import code_versions
from sam_bench.runtime.device import Hardware
from scripts.benchmark.plan import Plan
from scripts.benchmark.records import Case, CaseResult, Comparison, ComparisonResult
from scripts.benchmark.report import report
from scripts.process_tree import ending, kill_trees

CASE = Path(__file__).with_name("case.py")
LEAST_ROUNDS = 3
COMPARISON_SECONDS = 120.0
#: Seconds that a case has to answer; compiling a deep network takes minutes.
PATIENCE = 900.0
#: Seconds that a case has to end by itself.
ENDING = 20.0


class OutOfTime(UserError):
    """An error: the deadline passed before an answer came."""


class CaseProcess:
    """A child process that runs steps of a case on request.

    Args:
        deadline: the `time.monotonic()` at which it is killed if it has not answered.
    """

    def __init__(self, case: Case, deadline: float):
        self.deadline = deadline
        command = [sys.executable, str(CASE), case.to_json()]
        if case.processes > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={case.processes}"]
        environment = os.environ | ({"OMP_NUM_THREADS": str(case.threads)} if case.threads else {})
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.case = case
        self.steps = case.period

    def ready(self) -> None:
        """Wait until the process has warmed up, and store the facts that it reports."""
        self.result = CaseResult(self.case, facts=self._read_answer(), turns=[])

    def calibrate(self, seconds: float) -> None:
        """Choose the number of steps so that a turn takes about this many seconds."""
        period = self.case.period
        self.steps = period * max(1, math.ceil(seconds / self.turn()["seconds"] / period))

    def turn(self) -> dict[str, float]:
        """Run a turn, and return the mean seconds and passes of its steps."""
        return self.ask(self.steps)

    def ask(self, command: int | str) -> dict[str, float]:
        """Send a command, and return the answer: seconds and passes of what the process did.

        Args:
            command: a number of steps, or "evaluate".

        Raises:
            OutOfTime: the deadline passed before the answer.
            ConfigError: the process reported an error, ended, or took longer than `PATIENCE`.
        """
        with contextlib.suppress(OSError):  # the process has ended; reading its answer reports that
            print(command, file=self.process.stdin, flush=True)
        return self._read_answer()

    def _read_answer(self) -> dict[str, Any]:
        watchdog = threading.Timer(min(PATIENCE, self._seconds_left()), kill_trees, ([self.process.pid],))
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not self._seconds_left():
            raise OutOfTime("no time")
        answer = json.loads(line) if line else {"error": "it ended, or did not answer"}
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer

    def _seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def end(self) -> None:
        """Give the process some time to end by itself, then kill it and its remaining descendants."""
        with ending(self.process, min(ENDING, self._seconds_left())), contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()


def measure(comparison: Comparison, rounds: int, seconds: float, deadline: float) -> tuple[ComparisonResult, list[str]]:
    """Warm the cases up one after the other, then let them take turns, at most until the deadline.

    Args:
        rounds: number of turns of each case.
        seconds: approximate duration of a turn.
        deadline: a `time.monotonic()`.

    Returns:
        The measurements; and a line for each case that could not be measured, with the reason.

    Raises:
        OutOfTime: the deadline passed before `LEAST_ROUNDS` rounds were done.
        ConfigError: a case failed after its warm-up.
    """
    running: dict[Case, CaseProcess] = {}
    failed: list[str] = []
    evaluation = None

    try:
        warm_up(comparison, running, failed, deadline)
        take_turns(list(running.values()), rounds, seconds)
        if comparison.evaluated in running:
            try:
                evaluation = running[comparison.evaluated].ask("evaluate")["seconds"]
            except OutOfTime as error:
                failed.append(f"{comparison}, evaluation ({error})")
    finally:
        for process in running.values():
            process.end()

    results = [process.result for process in running.values()]
    return ComparisonResult(comparison.question, comparison.model, results, evaluation), failed


def warm_up(comparison: Comparison, running: dict[Case, CaseProcess], failed: list[str], deadline: float) -> None:
    """Start the cases one after the other; add each to `running`, or the reason why it does not run to `failed`."""
    for case in comparison.cases:
        running[case] = CaseProcess(case, deadline)
        try:
            running[case].ready()
        except ConfigError as error:
            failed.append(f"{comparison}, {case} ({error})")
            running.pop(case).end()


def take_turns(processes: list[CaseProcess], rounds: int, seconds: float) -> None:
    """Let the cases take turns, and store the answers of each round that all cases finished.

    Raises:
        OutOfTime: fewer than `LEAST_ROUNDS` rounds were finished in time.
        ConfigError: a case failed.
    """
    time_limit = time.monotonic() + COMPARISON_SECONDS
    for process in processes:
        process.calibrate(seconds)

    for number in range(rounds if processes else 0):
        if number >= LEAST_ROUNDS and time.monotonic() > time_limit:
            return

        # Another case begins each round, so that none always runs first.
        first = number % len(processes)
        try:
            latest = [(process, process.turn()) for process in processes[first:] + processes[:first]]
        except OutOfTime:
            if number < LEAST_ROUNDS:
                raise
            return
        for process, turn in latest:
            process.result.turns.append(turn)


class Output:
    """The benchmark's data and report, which are written after every comparison.

    Args:
        folder: created if it does not exist.
        began: the `time.monotonic()` at which the benchmark began.

    Raises:
        StateError: the folder cannot be created.
    """

    def __init__(self, folder: Path, hardware: Hardware, began: float):
        name = re.sub(r"[^a-z0-9]+", "-", hardware.name.lower()).strip("-")
        self.path = folder / f"{name}.json"
        self.began = began
        self.begun = False
        header = {"device": hardware.name, "precision": hardware.precision, **code_versions(), "minutes": 0.0}
        self.data: dict[str, Any] = header | {"comparisons": [], "not_measured": []}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"--out {folder} cannot be created: {error}") from error

    def leave_out(self, reason: str) -> None:
        """Record why something was not measured."""
        self.data["not_measured"].append(reason)
        print(f"Not measured: {reason}", file=sys.stderr, flush=True)
        self._write()

    def add(self, measured: ComparisonResult) -> None:
        """Add the results of a comparison."""
        self.data["comparisons"].append(dataclasses.asdict(measured))
        self._write()

    def _write(self) -> None:
        """Write data and report; the first time, rename earlier files to names with their time."""
        if not self.begun:
            self.begun = True
            for path in filter(Path.exists, (self.path, self.path.with_suffix(".md"))):
                modified = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
                path.rename(path.with_stem(f"{path.stem}-until-{modified}"))

        self.data["minutes"] = round((time.monotonic() - self.began) / 60, 1)
        write_atomically(self.path, (json.dumps(self.data, indent=1) + "\n").encode())
        write_atomically(self.path.with_suffix(".md"), (report(self.data) + "\n").encode())


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the benchmark's options, for this script and for scripts that pass the options on."""
    arguments_parser = parser(description)
    add = arguments_parser.add_argument

    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    add("--models", default="resnet8,resnet20,wrn16_8", type=names_of(choices("model"), "models"), help="networks")
    methods = "sgd,sam,asam,gsam,wsam,looksam"
    add("--methods", default=methods, type=method_names, help="compared with SGD, or all")
    add("--rounds", default=7, type=at_least(LEAST_ROUNDS), help="turns of each case; quartiles need 3")
    add("--seconds", default=1.0, type=float, help="approximate duration of a turn")
    add("--scaling", default=True, action=argparse.BooleanOptionalAction, help="vary batch size, width, threads, GPUs")
    add("--minutes", default=math.inf, type=at_least(0.001, float), help="time limit; the report names what is missing")
    add("--only", default="", help="only comparisons whose names contain one of these texts; separate them by commas")
    add("--out", default=Path("results/benchmark"), type=Path, help="folder of the data and the report")
    return arguments_parser


@errors_as_messages()
def main(arguments: list[str]) -> None:
    began = time.monotonic()
    options = options_of(__doc__).parse_args(arguments)
    hardware = Hardware.choose(options.device, options.precision)
    plan = Plan(hardware.device.type, hardware.precision)
    comparisons = chosen(plan.comparisons(options.models, options.methods, options.scaling), options.only.split(","))

    output = Output(options.out, hardware, began)
    for comparison in comparisons:
        measure_into(output, comparison, options, began + 60 * options.minutes)
    print(f"\n{report(output.data)}\nwritten: {output.path}")


def chosen(comparisons: Sequence[Comparison], texts: Sequence[str]) -> list[Comparison]:
    """Return the comparisons whose names contain one of the texts.

    Raises:
        ConfigError: no comparison's name contains one of the texts.
    """
    for text in texts:
        if not any(text in str(comparison) for comparison in comparisons):
            raise ConfigError(
                f"--only {text}: no such comparison. There are {', '.join(dict.fromkeys(map(str, comparisons)))}"
            )
    return [comparison for comparison in comparisons if any(text in str(comparison) for text in texts)]


def measure_into(output: Output, comparison: Comparison, options: argparse.Namespace, deadline: float) -> None:
    """Measure a comparison, and add its results, or the reason why there are none, to the output."""
    try:
        if time.monotonic() > deadline:
            raise OutOfTime("no time")
        print(f"{comparison}: {', '.join(map(str, comparison.cases))}", flush=True)
        measured, failed = measure(comparison, options.rounds, options.seconds, deadline)
    except (ConfigError, OutOfTime) as error:
        output.leave_out(f"{comparison} ({error})")
        return
    for reason in failed:
        output.leave_out(reason)
    output.add(measured)


if __name__ == "__main__":
    main(sys.argv[1:])
