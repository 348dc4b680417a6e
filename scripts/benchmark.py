"""What training costs here, measured side by side with its limit and with what many write themselves.

python scripts/benchmark.py [device=auto] [precision=auto] [models=resnet8,resnet20,wrn16_8] [methods=sgd,sam,…]
                            [rounds=7] [seconds=1] [scaling=true] [minutes=] [out=results/benchmark]

Every contender is a process of its own. Those that are compared take turns, `rounds` times, each for about `seconds` a
turn; ratios are of the same round, and medians over the rounds are given with their quartiles. A group whose steps are
slow ends after two minutes, and at least 3 rounds. With `minutes`, what there is no time for is left out, and named.
Written to `out`/<device>.json and .md; earlier files of these names are kept beside them.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_report import report

from sam_bench.errors import ConfigError, UserError
from sam_bench.hardware import Hardware
from sam_bench.lookup import lookup
from sam_bench.models.registry import MODELS
from sam_bench.optim.registry import METHODS
from sam_bench.store.files import write_atomically
from sam_bench.versions import code_versions

CONTENDER = Path(__file__).with_name("contender.py")
LEAST_ROUNDS, GROUP_SECONDS = 3, 120.0
PERIOD = {"looksam": 5, "sam_every_k": 5}
"""Steps after which a method repeats itself; 1 for the others."""


class Contender:
    """A process that works when it is told to.

    Args:
        processes: so many, by torchrun; each on its own device and its share of the batch.
        options: of `contender.py`.
    """

    def __init__(self, processes: int = 1, **options: str):
        self.options = options
        command = [sys.executable, str(CONTENDER), *(f"{name}={value}" for name, value in options.items())]
        if processes > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise ConfigError(f"{' '.join(f'{k}={v}' for k, v in self.options.items())}: {answer['error']}")
        return answer

    def end(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
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

    def measure(self, rounds: int, seconds: float, deadline: float, together: bool) -> dict[str, Any]:
        """Let them take turns, at least a few and until the deadline at most; what a report's `Measured` is made of.

        Args:
            together: whether they get warm at the same time, as a GPU's, which are compiled on many cores.

        Raises:
            ConfigError: one of them failed.
        """
        running: dict[str, Contender] = {}
        facts: dict[str, dict[str, Any]] = {}
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in self.contenders}
        evaluation = None
        try:
            for name, options in self.contenders.items():
                running[name] = Contender(**options)
                if not together:
                    facts[name] = running[name].ready()
            for name, contender in running.items() if together else ():
                facts[name] = contender.ready()
            names, until = list(running), min(deadline, time.monotonic() + GROUP_SECONDS)
            for contender in running.values():
                contender.calibrate(seconds)
            for number in range(rounds):
                if number >= LEAST_ROUNDS and time.monotonic() > until:
                    break
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    turns[name].append(running[name].turn())
            if self.evaluates is not None:
                evaluation = running[self.evaluates].ask("evaluate")["seconds"]
        finally:
            for contender in running.values():
                contender.end()
        return {"contenders": self.contenders, "facts": facts, "turns": turns, "evaluation_seconds": evaluation}


def main(arguments: list[str]) -> None:
    given = {"device": "auto", "precision": "auto", "models": "resnet8,resnet20,wrn16_8", "scaling": "true"}
    given |= {"methods": "sgd,sam,asam,gsam,wsam,looksam", "rounds": "7", "seconds": "1", "minutes": ""}
    given |= {"out": "results/benchmark"}
    number = len(given)
    given |= dict(argument.partition("=")[::2] for argument in arguments)
    if len(given) > number or given["scaling"] not in ("true", "false") or not given["rounds"].isdigit():
        sys.exit(__doc__.strip())
    if int(given["rounds"]) < LEAST_ROUNDS:
        sys.exit(f"Error: rounds={given['rounds']} gives no quartiles: at least {LEAST_ROUNDS} are needed")
    try:
        hardware = Hardware.choose(given["device"], given["precision"])
        models, methods = given["models"].split(","), given["methods"].split(",")
        for table, names, kind in ((MODELS, models, "models"), (METHODS, methods, "methods")):
            for name in names:
                lookup(table, name, kind)
        deadline = time.monotonic() + 60 * float(given["minutes"]) if given["minutes"] else math.inf
        measured, left_out = {}, []
        for group in groups(hardware, models, methods, given["scaling"] == "true"):
            if time.monotonic() > deadline:
                left_out.append(group.name)
                continue
            print(f"{group.name}: {', '.join(group.contenders)}", flush=True)
            together = hardware.device.type == "cuda"
            try:
                measured[group.name] = group.measure(int(given["rounds"]), float(given["seconds"]), deadline, together)
            except ConfigError as error:
                left_out.append(f"{group.name} ({error})")
                print(f"Not measured: {left_out[-1]}", file=sys.stderr, flush=True)
    except UserError as error:
        sys.exit(f"Error: {error}")
    about = {"device": hardware.name, "precision": hardware.precision, **code_versions()}
    data = about | {"groups": measured, "not_measured": left_out}
    print(f"\n{report(data)}")
    write(Path(given["out"]), data)


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
        # as many workers as help: on the CPU they would take the cores that the network needs
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


def write(folder: Path, data: dict[str, Any]) -> None:
    """Both files; what was there under their names is kept under a name with its time."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", data["device"].lower()).strip("-")
    for ending, content in ((".json", json.dumps(data, indent=1)), (".md", report(data))):
        path = folder / f"{name}{ending}"
        if path.exists():
            then = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
            path.rename(folder / f"{name}-until-{then}{ending}")
        write_atomically(path, (content + "\n").encode())
        print(f"written: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
