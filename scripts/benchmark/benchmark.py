"""What training costs here, measured side by side with its limit and with what many write themselves.

python scripts/benchmark/benchmark.py [device=auto] [precision=auto] [models=resnet8,resnet20,wrn16_8] [methods=sgd,sam,…]
                            [rounds=7] [seconds=1] [scaling=true] [minutes=] [only=] [out=results/benchmark]

Every contender is a process of its own. Those that are compared take turns, `rounds` times, each for about `seconds` a
turn; ratios are of the same round, and medians over the rounds are given with their quartiles. They warm up one after
the other, since convolutions and compiled kernels are chosen by timing them. A group whose steps are slow ends after
two minutes, and at least 3 rounds. When `minutes` are over everything ends, and what there was no time for is named;
with `only`, what has not this text in its name is left out. Written to `out`/<device>.json and .md after every group;
earlier files of these names are kept.
"""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sam_bench.errors import ConfigError, StateError, UserError
from sam_bench.lookup import lookup
from sam_bench.models.registry import MODELS
from sam_bench.optim.registry import METHODS
from sam_bench.runs.files import write_atomically
from sam_bench.runs.provenance import code_versions
from sam_bench.runtime.device import Hardware
from scripts.benchmark.report import report
from scripts.process_tree import kill_trees, tree

CONTENDER = Path(__file__).with_name("case.py")
LEAST_ROUNDS, GROUP_SECONDS = 3, 120.0
PATIENCE = 900.0
"""Seconds that a contender may take for an answer; compiling a deep network takes minutes."""
ENDING = 20.0
"""Seconds that it may take to end by itself."""
PERIOD = {"looksam": 5}
"""Steps after which a method repeats itself; 1 for the others."""
DEFAULTS = {
    "device": "auto",
    "precision": "auto",
    "models": "resnet8,resnet20,wrn16_8",
    "methods": "sgd,sam,asam,gsam,wsam,looksam",
    "rounds": "7",
    "seconds": "1",
    "scaling": "true",
    "minutes": "inf",
    "only": "",
    "out": "results/benchmark",
}
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "scaling": ("true", "false"),
}
NUMBERS = {"rounds": int, "seconds": float, "minutes": float}
LISTS = {"models": MODELS, "methods": METHODS}
"""Options by what they may be, the last of names in these tables."""


class OutOfTime(UserError):
    """The deadline came before an answer."""


class Contender:
    """A process that works when it is told to.

    Args:
        deadline: by `time.monotonic()`, when it is killed if it has not answered.
        processes: so many, by torchrun; each on its own device and its share of the batch.
        threads: that the CPU's work is divided among; torch's default if None.
        options: of `contender.py`.
    """

    def __init__(self, deadline: float, processes: int = 1, threads: int | None = None, **options: str):
        self.deadline = deadline
        command = [sys.executable, str(CONTENDER), *(f"{name}={value}" for name, value in options.items())]
        if processes > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.period = PERIOD.get(options.get("method", ""), 1)
        self.count = self.period

    def ready(self) -> dict[str, Any]:
        """Wait until it is warm; what it knows by then."""
        return self._answer()

    def calibrate(self, seconds: float) -> None:
        """Let a turn take about so many seconds."""
        self.count = self.period * max(1, math.ceil(seconds / self.turn()["seconds"] / self.period))

    def turn(self) -> dict[str, float]:
        """Seconds and passes of a step, on average over a turn."""
        return self.ask(str(self.count))

    def ask(self, command: str) -> dict[str, float]:
        """What it answers: seconds and passes of what it did.

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
        """Seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def end(self) -> None:
        """Let it end by itself while there is time for that, then kill what is left of it and of what it started."""
        started = tree(self.process.pid)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(min(ENDING, self._left()))
        kill_trees(started)
        self.process.wait()


@dataclass(frozen=True)
class Group:
    """Contenders that take turns.

    Args:
        contenders: their options, by the names that they have in the report.
        evaluates: the name of the one that is timed at an evaluation, too.
    """

    name: str
    contenders: dict[str, dict[str, Any]]
    evaluates: str | None = None

    def measure(self, rounds: int, seconds: float, deadline: float) -> tuple[dict[str, Any], list[str]]:
        """Warm them up, one after the other, and let them take turns until the deadline at most.

        Returns:
            What a report's `Measured` is made of; and what could not be measured, and why.

        Raises:
            OutOfTime: the deadline came before a few rounds were done.
            ConfigError: one of them failed later than in its warm-up.
        """
        running: dict[str, Contender] = {}
        facts: dict[str, dict[str, Any]] = {}
        failed = []
        try:
            for name, options in self.contenders.items():
                running[name] = Contender(deadline, **options)
                try:
                    facts[name] = running[name].ready()
                except ConfigError as error:
                    failed.append(f"{self.name}, {name} ({error})")
                    running.pop(name).end()
            turns = take_turns(running, rounds, seconds)
            evaluation = None
            if self.evaluates in running:
                try:
                    evaluation = running[self.evaluates].ask("evaluate")["seconds"]
                except OutOfTime as error:
                    failed.append(f"{self.name}, evaluation ({error})")
        finally:
            for contender in running.values():
                contender.end()
        measured = {"contenders": self.contenders, "facts": facts, "turns": turns, "evaluation_seconds": evaluation}
        return measured, failed


def take_turns(running: dict[str, Contender], rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Return what each contender answered in every round that all of them finished.

    Raises:
        OutOfTime: those are too few.
        ConfigError: one of them failed.
    """
    names, until = list(running), time.monotonic() + GROUP_SECONDS
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for contender in running.values():
        contender.calibrate(seconds)
    for number in range(rounds if names else 0):
        if number >= LEAST_ROUNDS and time.monotonic() > until:
            break
        first = number % len(names)
        try:
            latest = {name: running[name].turn() for name in names[first:] + names[:first]}
        except OutOfTime:
            if number < LEAST_ROUNDS:
                raise
            break
        for name, turn in latest.items():
            turns[name].append(turn)
    return turns


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    device: str
    precision: str
    models: list[str]
    methods: list[str]
    rounds: int
    seconds: float
    scaling: bool
    minutes: float
    only: str
    out: Path

    @classmethod
    def read(cls, arguments: list[str], usage: str) -> "Options":
        """Read `key=value` words, the last of each key; end with `usage` where a key or a value is of no use.

        Raises:
            ConfigError: a name is unknown, or the rounds are too few.
        """
        given = DEFAULTS | dict(argument.partition("=")[::2] for argument in arguments)
        known = len(given) == len(DEFAULTS) and all(given[key] in values for key, values in CHOICES.items())
        try:
            numbers = {key: kind(given[key]) for key, kind in NUMBERS.items()}
        except ValueError:
            known = False
        if not known or not numbers["minutes"] > 0:
            sys.exit(usage.strip())
        if numbers["rounds"] < LEAST_ROUNDS:
            raise ConfigError(f"rounds={given['rounds']} gives no quartiles: at least {LEAST_ROUNDS} are needed")
        lists = {key: given[key].split(",") for key in LISTS}
        for kind, table in LISTS.items():
            for name in lists[kind]:
                lookup(table, name, kind)
        return cls(**given | numbers | lists | {"scaling": given["scaling"] == "true", "out": Path(given["out"])})


def main(arguments: list[str]) -> None:
    began = time.monotonic()
    try:
        options = Options.read(arguments, __doc__)
        hardware = Hardware.choose(options.device, options.precision)
        found = groups(hardware, options.models, options.methods, options.scaling)
        results = Results(options.out, hardware, began)
        for group in found:
            if options.only in group.name:
                measure(group, results, options, began + 60 * options.minutes)
    except UserError as error:
        sys.exit(f"Error: {error}")
    print(f"\n{report(results.data)}\nwritten: {results.path}")


def measure(group: Group, results: "Results", options: Options, deadline: float) -> None:
    """Measure a group, and note what came of it."""
    try:
        if time.monotonic() > deadline:
            raise OutOfTime("no time")
        print(f"{group.name}: {', '.join(group.contenders)}", flush=True)
        measured, failed = group.measure(options.rounds, options.seconds, deadline)
    except (ConfigError, OutOfTime) as error:
        results.leave_out(f"{group.name} ({error})")
        return
    for reason in failed:
        results.leave_out(reason)
    results.add(group.name, measured)


class Results:
    """What was measured until now, on the disk after every group, and what was not.

    Args:
        folder: is made, if need be.
        began: when, by `time.monotonic()`.

    Raises:
        StateError: it cannot be written to.
    """

    def __init__(self, folder: Path, hardware: Hardware, began: float):
        name = re.sub(r"[^a-z0-9]+", "-", hardware.name.lower()).strip("-")
        self.path, self.began, self.begun = folder / f"{name}.json", began, False
        about = {"device": hardware.name, "precision": hardware.precision, **code_versions(), "minutes": 0.0}
        self.data: dict[str, Any] = about | {"groups": {}, "not_measured": []}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"out={folder} cannot be made: {error}") from error

    def leave_out(self, reason: str) -> None:
        """Note what was not measured."""
        self.data["not_measured"].append(reason)
        print(f"Not measured: {reason}", file=sys.stderr, flush=True)
        self._write()

    def add(self, name: str, measured: dict[str, Any]) -> None:
        """Note what was measured."""
        self.data["groups"][name] = measured
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


def groups(hardware: Hardware, models: list[str], methods: list[str], scaling: bool) -> list[Group]:
    """What is measured, the most important first."""
    cuda = hardware.device.type == "cuda"
    common = {"device": hardware.device.type, "precision": hardware.precision}
    fastest = "graph" if cuda else "eager"
    warm = "10" if cuda else "2"

    def ours(model: str, method: str, engine: str = "auto", batch: int = 128, **more: Any) -> dict[str, Any]:
        warmup = str(PERIOD.get(method, 1) * int(warm)) if cuda else warm
        own = {"kind": "ours", "model": model, "method": method, "engine": engine, "batch": str(batch)}
        return common | own | {"warmup": warmup} | more

    def limit(model: str, engine: str = fastest, batch: int = 128) -> dict[str, Any]:
        return common | {"kind": "limit", "model": model, "engine": engine, "batch": str(batch), "warmup": warm}

    def user(model: str, precision: str) -> dict[str, Any]:
        # on the CPU, workers would take the cores that the network needs
        workers = str(min(8, (os.cpu_count() or 1) // 2)) if cuda else "0"
        return {"kind": "user", "model": model, "precision": precision, "device": hardware.device.type} | {
            "batch": "128",
            "workers": workers,
        }

    other = "compile"  # the limit's other engine: eager is the slowest on CUDA, compiled about as fast on the CPU
    found, users = [], []
    for model in models:
        contenders = {"limit": limit(model), "limit, compiled": limit(model, other), "sgd": ours(model, "sgd")}
        contenders |= {"sam": ours(model, "sam"), "batches": common | {"kind": "batches", "model": model}}
        contenders |= {"matmul": common | {"kind": "matmul"}}
        found.append(Group(f"{model}: limit", contenders, evaluates="sam"))
        contenders = {"sam": ours(model, "sam"), "user, fp32": user(model, "fp32")}
        users.append(Group(f"{model}: user's loop", contenders | {"user, autocast": user(model, "autocast")}))
    if cuda:
        compared, choice = ("wrn16_8", "wrn22_8", "resnet20", "pyramidnet110"), ("graph", "compile", "eager")
    else:
        compared, choice = models[:1], ("eager", "compile")
    engines = [Group(f"{m}: engines", {engine: ours(m, "sam", engine) for engine in choice}) for m in compared]
    found += engines[:3] + users
    for model in models:
        for method in methods:
            if method != "sgd":
                contenders = {"limit": limit(model), "sgd": ours(model, "sgd"), method: ours(model, method)}
                found.append(Group(f"{model}: {method}", contenders))
    if scaling and not cuda:
        counts = sorted({1, torch.get_num_threads(), os.cpu_count() or 1})
        found.append(Group("resnet20: threads", {str(n): ours("resnet20", "sam", threads=n) for n in counts}))
    if scaling:
        for batch in (32, 64, 256, 512):
            contenders = {"limit": limit("resnet20", batch=batch), "sam": ours("resnet20", "sam", batch=batch)}
            found.append(Group(f"resnet20: batch {batch}", contenders))
        for model in ("wrn16_4", "wrn28_2"):
            found.append(Group(f"{model}: width", {"limit": limit(model), "sam": ours(model, "sam")}))
        if cuda and torch.cuda.device_count() > 1:
            count = torch.cuda.device_count()
            alone, together = ours("wrn16_8", "sam", "compile"), ours("wrn16_8", "sam", batch=128 * count)
            found.append(Group("wrn16_8: GPUs", {"1": alone, str(count): together | {"processes": count}}))
    return found + engines[3:]  # the last takes minutes to compile


if __name__ == "__main__":
    main(sys.argv[1:])
