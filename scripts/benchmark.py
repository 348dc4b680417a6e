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
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

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

IMAGES = 50_000


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


@dataclass
class Group:
    """Contenders that take turns, and what they needed.

    Attributes:
        contenders: their options, by the names that they have in the report.
        extra: the name of a contender that is also timed at an evaluation.
    """

    name: str
    contenders: dict[str, dict[str, Any]]
    extra: str | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    turns: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    evaluation_seconds: float | None = None

    def measure(self, rounds: int, seconds: float, deadline: float, together: bool) -> None:
        """Let them take turns, at least a few and until the deadline at most.

        Args:
            together: whether they get warm at the same time, as a GPU's, which are compiled on many cores.
        """
        running: dict[str, Contender] = {}
        try:
            for name, options in self.contenders.items():
                running[name] = Contender(**options)
                if not together:
                    self.facts[name] = running[name].ready()
            for name, contender in running.items() if together else ():
                self.facts[name] = contender.ready()
            names, until = list(running), min(deadline, time.monotonic() + GROUP_SECONDS)
            for contender in running.values():
                contender.calibrate(seconds)
            for number in range(rounds):
                if number >= LEAST_ROUNDS and time.monotonic() > until:
                    break
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    self.turns.setdefault(name, []).append(running[name].turn())
            if self.extra is not None:
                self.evaluation_seconds = running[self.extra].ask("evaluate")["seconds"]
        finally:
            for contender in running.values():
                contender.end()

    def seconds(self, name: str) -> list[float]:
        """Of a step, in each round."""
        return [turn["seconds"] for turn in self.turns[name]]

    def ratios(self, name: str, of: str) -> list[float]:
        """A contender's seconds over another's times as many passes, in each round."""
        passes = [turn["passes"] or 1 for turn in self.turns[name]]
        each = [turn["passes"] or 1 for turn in self.turns[of]]
        pairs = zip(self.seconds(name), passes, self.seconds(of), each, strict=True)
        return [mine / (count / unit * other) for mine, count, other, unit in pairs]

    def steps_over(self, name: str, of: str) -> list[float]:
        """A contender's seconds a step over another's, in each round."""
        return [a / b for a, b in zip(self.seconds(name), self.seconds(of), strict=True)]

    def as_data(self) -> dict[str, Any]:
        return {
            "contenders": self.contenders,
            "facts": self.facts,
            "turns": self.turns,
            "evaluation_seconds": self.evaluation_seconds,
        }


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
        measured, left_out = [], []
        for group in groups(hardware, models, methods, given["scaling"] == "true"):
            if time.monotonic() > deadline:
                left_out.append(group.name)
                continue
            print(f"{group.name}: {', '.join(group.contenders)}", flush=True)
            together = hardware.device.type == "cuda"
            group.measure(int(given["rounds"]), float(given["seconds"]), deadline, together)
            measured.append(group)
    except UserError as error:
        sys.exit(f"Error: {error}")
    text = report(measured, left_out, hardware)
    print(f"\n{text}")
    write(Path(given["out"]), hardware, measured, left_out, text)


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
        found.append(Group(f"{model}: limit", contenders, extra="sam"))
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


def report(measured: list[Group], left_out: list[str], hardware: Hardware) -> str:
    """The tables, as Markdown."""
    by_name = {group.name: group for group in measured}
    versions = code_versions()["versions"]
    facts = [facts for group in measured for facts in group.facts.values()]
    threads = facts[0]["threads"] if facts else torch.get_num_threads()
    lines = [
        f"# Benchmark on {hardware.name}",
        "",
        f"{hardware.precision}, {threads} threads, torch {torch.__version__}, CUDA {versions['cuda']}, Python "
        f"{platform.python_version()}; SAM's step at batch 128 unless it is said otherwise. Medians over the rounds, "
        "and quartiles.",
    ]
    for name, group in by_name.items():
        model, _, what = name.partition(": ")
        if what == "limit":
            lines += ["", f"## {model}", "", *_limit_table(group, by_name.get(f"{model}: user's loop"))]
            own = {n.split(": ")[1]: g for n, g in by_name.items() if n.startswith(f"{model}: ")}
            rows = {method: g for method, g in own.items() if method in METHODS}
            if rows:
                lines += ["", *_method_table({"sgd": group, "sam": group} | rows, group)]
    lines += _others(by_name)
    if left_out:
        lines += ["", f"Not measured, for want of time: {'; '.join(left_out)}."]
    return "\n".join(lines)


def _limit_table(group: Group, users: Group | None) -> list[str]:
    flop, sam = group.facts["limit"]["flop"], statistics.median(group.seconds("sam"))
    peak = group.facts["matmul"]["flop"] / statistics.median(group.seconds("matmul"))
    best = min(("limit", "limit, compiled"), key=lambda name: statistics.median(group.seconds(name)))
    rows = [
        "| SAM's step | |",
        "| --- | --- |",
        f"| ours, {group.facts['sam']['engine']} | {_milliseconds(group.seconds('sam'))} |",
        f"| its two passes alone | {_milliseconds([2 * s for s in group.seconds('limit')])} |",
        f"| the same, compiled | {_milliseconds([2 * s for s in group.seconds('limit, compiled')])} |",
        f"| ours / the faster of the two | {_spread(_over_limit(group, 'sam', best))} |",
    ]
    if users is not None:
        for name, title in (("user, fp32", "fp32"), ("user, autocast", "autocast")):
            rows.append(f"| a user's loop, {title} | {_milliseconds(users.seconds(name))} |")
            rows.append(f"| a user's loop, {title} / ours | {_spread(users.steps_over(name, 'sam'))} |")
    seconds = sam * math.ceil(IMAGES / 128)
    share = 40 * group.evaluation_seconds / (200 * seconds)
    sgd = 200 * statistics.median(group.seconds("sgd")) * math.ceil(IMAGES / 128)
    rows += [
        f"| an epoch of 50,000 images | {seconds:.2f} s |",
        f"| floating-point operations of a pass | {flop / 1e9:.1f} G |",
        f"| ours, in FLOP/s | {2 * flop / sam / 1e12:.3f} T |",
        f"| a matrix product, in FLOP/s | {peak / 1e12:.3f} T |",
        f"| ours / the matrix product | {2 * flop / sam / peak:.1%} |",
        f"| preparing a batch | {_milliseconds(group.seconds('batches'))} |",
        f"| preparing a batch / the step | {_percent(group.steps_over('batches', 'sam'))} |",
        f"| evaluating 10,000 images | {group.evaluation_seconds:.3f} s |",
        f"| evaluating every 5th of 200 epochs / training | SAM {share:.2%}, SGD "
        f"{40 * group.evaluation_seconds / sgd:.2%} |",
        f"| peak memory | {group.turns['sam'][-1]['peak_memory_bytes'] / 2**20:,.0f} MiB |",
    ]
    return rows


def _over_limit(group: Group, name: str, limit: str = "limit") -> list[float]:
    """Seconds of a step over those of as many bare passes, in each round."""
    turns = zip(group.turns[name], group.turns[limit], strict=True)
    return [turn["seconds"] / (turn["passes"] * bare["seconds"]) for turn, bare in turns]


def _method_table(rows: dict[str, Group], first: Group) -> list[str]:
    lines = [
        "| method | passes | ms a step | images/s | time / (passes × SGD's step) | time / (passes × bare pass) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method, group in rows.items():
        if method in group.turns:
            passes, seconds = group.turns[method][0]["passes"], group.seconds(method)
            lines.append(
                f"| {METHODS[method].title} | {passes:.3g} | {_milliseconds(seconds)} | "
                f"{128 / statistics.median(seconds):,.0f} | {_spread(group.ratios(method, 'sgd'))} | "
                f"{_spread(_over_limit(group, method))} |"
            )
    return lines


def _others(by_name: dict[str, Group]) -> list[str]:
    lines = []
    for name, group in by_name.items():
        model, _, what = name.partition(": ")
        if what == "engines":
            first = next(iter(group.turns))
            lines += ["", f"## Engines, {model}", "", f"| engine | ms a step | an epoch | time / {first}'s |"]
            lines.append("| --- | --- | --- | --- |")
            for engine in group.turns:
                epoch = statistics.median(group.seconds(engine)) * math.ceil(IMAGES / 128)
                lines.append(
                    f"| {group.facts[engine]['engine']} | {_milliseconds(group.seconds(engine))} | {epoch:.2f} s | "
                    f"{_spread(group.steps_over(engine, first))} |"
                )
        elif what == "GPUs":
            lines += ["", f"## Several GPUs, {model}", "", "| GPUs | ms a step | images/s |", "| --- | --- | --- |"]
            for count in group.turns:
                speed = 128 * int(count) / statistics.median(group.seconds(count))
                lines.append(f"| {count} | {_milliseconds(group.seconds(count))} | {speed:,.0f} |")
    scaling = {name: group for name, group in by_name.items() if re.search(r": (batch \d+|width)$", name)}
    if scaling:
        lines += ["", "## Batch size and width", "", "| | ms a step | images/s | ours / limit |"]
        lines.append("| --- | --- | --- | --- |")
    for name, group in scaling.items():
        batch = int(group.contenders["sam"]["batch"])
        lines.append(
            f"| {name.removesuffix(': width')} | {_milliseconds(group.seconds('sam'))} | "
            f"{batch / statistics.median(group.seconds('sam')):,.0f} | {_spread(_over_limit(group, 'sam'))} |"
        )
    return lines


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return statistics.median(values), low, high


def _spread(values: list[float]) -> str:
    return "{:.3f} ({:.3f} – {:.3f})".format(*_quartiles(values))


def _percent(values: list[float]) -> str:
    return "{:.2%} ({:.2%} – {:.2%})".format(*_quartiles(values))


def _milliseconds(values: list[float]) -> str:
    return "{:.4g} ms ({:.4g} – {:.4g})".format(*(1000 * value for value in _quartiles(values)))


def write(folder: Path, hardware: Hardware, measured: list[Group], left_out: list[str], text: str) -> None:
    """Both files; what was there under their names is kept under a name with its time."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", hardware.name.lower()).strip("-")
    data = {
        "device": hardware.name,
        "precision": hardware.precision,
        **code_versions(),
        "groups": {group.name: group.as_data() for group in measured},
        "not_measured": left_out,
    }
    for ending, content in ((".json", json.dumps(data, indent=1)), (".md", text)):
        path = folder / f"{name}{ending}"
        if path.exists():
            then = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
            path.rename(folder / f"{name}-until-{then}{ending}")
        write_atomically(path, (content + "\n").encode())
        print(f"written: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
