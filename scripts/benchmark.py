"""What training costs here, measured side by side with its limit and with what many write themselves.

python scripts/benchmark.py [device=auto] [precision=auto] [models=resnet8,resnet20,wrn16_8] [methods=sgd,sam,…]
                            [rounds=7] [seconds=1] [scaling=true] [minutes=] [only=] [out=results/benchmark]

Every contender is a process of its own. Those that are compared take turns, `rounds` times, each for about `seconds` a
turn; ratios are of the same round, and medians over the rounds are given with their quartiles. A group whose steps are
slow ends after two minutes, and at least 3 rounds. With `minutes`, what there is no time for is left out, and named;
with `only`, so is what has not this text in its name. Written to `out`/<device>.json and .md after every group; earlier
files of these names are kept.
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
from benchmark_report import report

from sam_bench.errors import ConfigError, StateError, UserError
from sam_bench.hardware import Hardware
from sam_bench.lookup import lookup
from sam_bench.models.registry import MODELS
from sam_bench.optim.registry import METHODS
from sam_bench.store.files import write_atomically
from sam_bench.versions import code_versions

CONTENDER = Path(__file__).with_name("contender.py")
LEAST_ROUNDS, GROUP_SECONDS = 3, 120.0
PATIENCE = 900.0
"""Seconds that a contender may take for an answer; compiling a deep network takes minutes."""
PERIOD = {"looksam": 5}
"""Steps after which a method repeats itself; 1 for the others."""


class Contender:
    """A process that works when it is told to.

    Args:
        processes: so many, by torchrun; each on its own device and its share of the batch.
        threads: that the CPU's work is divided among; torch's default if None.
        options: of `contender.py`.
    """

    def __init__(self, processes: int = 1, threads: int | None = None, **options: str):
        self.options = options
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
        """What it answers: seconds and passes of what it did."""
        with contextlib.suppress(OSError):  # of one that has ended: there will be no answer
            print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        answer = json.loads(line) if line else {"error": "it ended, or did not answer"}
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for insist in (lambda: None, self.process.terminate, self.process.kill):
            insist()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=20)
                return


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

    def measure(self, rounds: int, seconds: float, deadline: float, together: bool) -> tuple[dict[str, Any], list[str]]:
        """Let them take turns, at least a few and until the deadline at most.

        Args:
            together: whether they get warm at the same time, as a GPU's, which are compiled on many cores.

        Returns:
            What a report's `Measured` is made of; and who did not get warm, and why.

        Raises:
            ConfigError: one of them failed later.
        """
        running: dict[str, Contender] = {}
        facts: dict[str, dict[str, Any]] = {}
        failed = []

        def warm(name: str) -> None:
            try:
                facts[name] = running[name].ready()
            except ConfigError as error:
                failed.append(f"{self.name}, {name} ({error})")
                running.pop(name).end()

        try:
            for name, options in self.contenders.items():
                running[name] = Contender(**options)
                if not together:
                    warm(name)
            for name in list(running) if together else ():
                warm(name)
            names, until = list(running), min(deadline, time.monotonic() + GROUP_SECONDS)
            turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for contender in running.values():
                contender.calibrate(seconds)
            for number in range(rounds if names else 0):
                if number >= LEAST_ROUNDS and time.monotonic() > until:
                    break
                first = number % len(names)
                for name in names[first:] + names[:first]:
                    turns[name].append(running[name].turn())
            evaluation = running[self.evaluates].ask("evaluate")["seconds"] if self.evaluates in running else None
        finally:
            for contender in running.values():
                contender.end()
        measured = {"contenders": self.contenders, "facts": facts, "turns": turns, "evaluation_seconds": evaluation}
        return measured, failed


def main(arguments: list[str]) -> None:
    given = {"device": "auto", "precision": "auto", "models": "resnet8,resnet20,wrn16_8", "scaling": "true"}
    given |= {"methods": "sgd,sam,asam,gsam,wsam,looksam", "rounds": "7", "seconds": "1", "minutes": "inf"}
    given |= {"out": "results/benchmark", "only": ""}
    number = len(given)
    given |= dict(argument.partition("=")[::2] for argument in arguments)
    try:
        rounds, seconds, minutes = int(given["rounds"]), float(given["seconds"]), float(given["minutes"])
        known = given["device"] in ("auto", "cpu", "cuda") and given["precision"] in ("auto", "fp32", "bf16", "fp16")
    except ValueError:
        known = False
    if not known or len(given) > number or given["scaling"] not in ("true", "false"):
        sys.exit(__doc__.strip())
    if rounds < LEAST_ROUNDS:
        sys.exit(f"Error: rounds={rounds} gives no quartiles: at least {LEAST_ROUNDS} are needed")
    try:
        hardware = Hardware.choose(given["device"], given["precision"])
        models, methods = given["models"].split(","), given["methods"].split(",")
        for table, names, kind in ((MODELS, models, "models"), (METHODS, methods, "methods")):
            for name in names:
                lookup(table, name, kind)
        chosen = [g for g in groups(hardware, models, methods, given["scaling"] == "true") if given["only"] in g.name]
        results = Results(Path(given["out"]), hardware)
        began, together = time.monotonic(), hardware.device.type == "cuda"
        for group in chosen:
            if time.monotonic() - began > 60 * minutes:
                results.leave_out(f"{group.name} (no time)")
                continue
            print(f"{group.name}: {', '.join(group.contenders)}", flush=True)
            try:
                measured, failed = group.measure(rounds, seconds, began + 60 * minutes, together)
            except ConfigError as error:
                results.leave_out(f"{group.name} ({error})")
                continue
            for reason in failed:
                results.leave_out(reason)
            results.add(group.name, measured, time.monotonic() - began)
    except UserError as error:
        sys.exit(f"Error: {error}")
    print(f"\n{report(results.data)}\nwritten: {results.path}")


class Results:
    """What was measured until now, on the disk after every group.

    Args:
        folder: is made, if need be.

    Raises:
        StateError: it cannot be written to.
    """

    def __init__(self, folder: Path, hardware: Hardware):
        name = re.sub(r"[^a-z0-9]+", "-", hardware.name.lower()).strip("-")
        self.path = folder / f"{name}.json"
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

    def add(self, name: str, measured: dict[str, Any], seconds: float) -> None:
        """Write data and report; what was there before is kept under a name with its time.

        Args:
            seconds: since the beginning.
        """
        if not self.data["groups"]:
            for path in filter(Path.exists, (self.path, self.path.with_suffix(".md"))):
                then = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
                path.rename(path.with_stem(f"{path.stem}-until-{then}"))
        self.data["groups"][name] = measured
        self.data["minutes"] = round(seconds / 60, 1)
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
