"""What training costs here, measured side by side with its lower bound and with what many write themselves.

python scripts/benchmark/benchmark.py --models resnet20 --no-scaling --minutes 10

Every case is a process of its own. Those that are compared take turns; ratios are of the same round, and medians over
the rounds are given with their quartiles. They warm up one after the other, since convolutions and compiled kernels are
chosen by timing them. A comparison whose steps are slow ends after two minutes, and at least 3 rounds. Data and report
are written after every comparison; earlier files of these names are kept.
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

from sam_bench.cli.compose import choices
from sam_bench.errors import ConfigError, StateError, UserError
from sam_bench.runs.files import write_atomically
from sam_bench.runs.provenance import code_versions
from sam_bench.runtime.device import Hardware
from scripts.arguments import at_least, errors_as_messages, method_names, names_of, parser
from scripts.benchmark.plan import Plan
from scripts.benchmark.records import Case, CaseResult, Comparison, ComparisonResult
from scripts.benchmark.report import report
from scripts.process_tree import ending, kill_trees

CASE = Path(__file__).with_name("case.py")
LEAST_ROUNDS = 3
COMPARISON_SECONDS = 120.0
PATIENCE = 900.0
"""Seconds that a case may take for an answer; compiling a deep network takes minutes."""
ENDING = 20.0
"""Seconds that it may take to end by itself."""


class OutOfTime(UserError):
    """The deadline came before an answer."""


class CaseProcess:
    """A process that works when it is told to.

    Args:
        deadline: by `time.monotonic()`, when it is killed if it has not answered.
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
        """Wait until it is warm, and note what it knows by then."""
        self.result = CaseResult(self.case, facts=self._answer(), turns=[])

    def calibrate(self, seconds: float) -> None:
        """Let a turn take about so many seconds."""
        period = self.case.period
        self.steps = period * max(1, math.ceil(seconds / self.turn()["seconds"] / period))

    def turn(self) -> dict[str, float]:
        """Return seconds and passes of a step, on average over a turn."""
        return self.ask(self.steps)

    def ask(self, command: int | str) -> dict[str, float]:
        """Return what it answers: seconds and passes of what it did.

        Raises:
            OutOfTime: the deadline came first.
            ConfigError: it says why it cannot, or it ended, or it took too long.
        """
        with contextlib.suppress(OSError):  # of one that has ended: there will be no answer
            print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        watchdog = threading.Timer(min(PATIENCE, self._left()), kill_trees, ([self.process.pid],))
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not self._left():
            raise OutOfTime("no time")
        answer = json.loads(line) if line else {"error": "it ended, or did not answer"}
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer

    def _left(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def end(self) -> None:
        """Let it end by itself while there is time for that, then kill what is left of it and of what it started."""
        with ending(self.process, min(ENDING, self._left())), contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()


def measure(comparison: Comparison, rounds: int, seconds: float, deadline: float) -> tuple[ComparisonResult, list[str]]:
    """Warm the cases up, one after the other, and let them take turns until the deadline at most.

    Returns:
        What was measured; and what could not be measured, and why.

    Raises:
        OutOfTime: the deadline came before a few rounds were done.
        ConfigError: a case failed later than in its warm-up.
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
    """Start the cases, and note those that run, and why others do not."""
    for case in comparison.cases:
        running[case] = CaseProcess(case, deadline)
        try:
            running[case].ready()
        except ConfigError as error:
            failed.append(f"{comparison}, {case} ({error})")
            running.pop(case).end()


def take_turns(processes: list[CaseProcess], rounds: int, seconds: float) -> None:
    """Let cases take turns; what each answered is kept of every round that all of them finished.

    Raises:
        OutOfTime: those are too few.
        ConfigError: one of them failed.
    """
    until = time.monotonic() + COMPARISON_SECONDS
    for process in processes:
        process.calibrate(seconds)
    for number in range(rounds if processes else 0):
        if number >= LEAST_ROUNDS and time.monotonic() > until:
            return
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
    """What was measured until now, on the disk after every comparison, and what was not.

    Args:
        folder: is made, if need be.
        began: when, by `time.monotonic()`.

    Raises:
        StateError: it cannot be written to.
    """

    def __init__(self, folder: Path, hardware: Hardware, began: float):
        name = re.sub(r"[^a-z0-9]+", "-", hardware.name.lower()).strip("-")
        self.path = folder / f"{name}.json"
        self.began = began
        self.begun = False
        about = {"device": hardware.name, "precision": hardware.precision, **code_versions(), "minutes": 0.0}
        self.data: dict[str, Any] = about | {"comparisons": [], "not_measured": []}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"--out {folder} cannot be made: {error}") from error

    def leave_out(self, reason: str) -> None:
        """Note what was not measured."""
        self.data["not_measured"].append(reason)
        print(f"Not measured: {reason}", file=sys.stderr, flush=True)
        self._write()

    def add(self, measured: ComparisonResult) -> None:
        """Note what was measured."""
        self.data["comparisons"].append(dataclasses.asdict(measured))
        self._write()

    def _write(self) -> None:
        """Write data and report; what was there before is kept under a name with its time."""
        if not self.begun:
            self.begun = True
            for path in filter(Path.exists, (self.path, self.path.with_suffix(".md"))):
                then = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
                path.rename(path.with_stem(f"{path.stem}-until-{then}"))
        self.data["minutes"] = round((time.monotonic() - self.began) / 60, 1)
        write_atomically(self.path, (json.dumps(self.data, indent=1) + "\n").encode())
        write_atomically(self.path.with_suffix(".md"), (report(self.data) + "\n").encode())


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the benchmark's options, for this script and those that pass them on."""
    words = parser(description)
    add = words.add_argument
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    add("--models", default="resnet8,resnet20,wrn16_8", type=names_of(choices("model"), "models"), help="networks")
    methods = "sgd,sam,asam,gsam,wsam,looksam"
    add("--methods", default=methods, type=method_names, help="compared with SGD, or all")
    add("--rounds", default=7, type=at_least(LEAST_ROUNDS), help="turns of each case; quartiles need 3")
    add("--seconds", default=1.0, type=float, help="about so many a turn")
    add("--scaling", default=True, action=argparse.BooleanOptionalAction, help="batch sizes, widths, threads, GPUs")
    add("--minutes", default=math.inf, type=at_least(0.001, float), help="then all ends, and what is missing is named")
    add("--only", default="", help="comparisons with one of these texts, with commas between them, in their names")
    add("--out", default=Path("results/benchmark"), type=Path, help="folder of the data and the report")
    return words


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
    """Return the comparisons that have one of these texts in their names.

    Raises:
        ConfigError: none has one of them.
    """
    for text in texts:
        if not any(text in str(each) for each in comparisons):
            raise ConfigError(f"--only {text}: there are {', '.join(dict.fromkeys(map(str, comparisons)))}")
    return [each for each in comparisons if any(text in str(each) for text in texts)]


def measure_into(output: Output, comparison: Comparison, options: argparse.Namespace, deadline: float) -> None:
    """Measure a comparison, and note what came of it."""
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
