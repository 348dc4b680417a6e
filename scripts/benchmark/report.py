"""The benchmark's tables, from what it wrote.

python scripts/benchmark/report.py results/benchmark/<device>.json
"""

import json
import math
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_bench.optim.registry import METHODS

IMAGES = 50_000
"""Of an epoch."""

COMPLETE = ("limit", "sgd", "sam", "batches", "matmul")
"""Who must have been measured for a network's table."""


@dataclass(frozen=True)
class Measured:
    """What contenders needed that took turns.

    Args:
        contenders: their options, by name.
        facts: what each knew when it was warm.
        turns: seconds and passes of a step in each round.
        evaluation_seconds: of the test set, where it was timed.
    """

    contenders: dict[str, dict[str, Any]]
    facts: dict[str, dict[str, Any]]
    turns: dict[str, list[dict[str, float]]]
    evaluation_seconds: float | None = None

    def has(self, *names: str) -> bool:
        """Whether all of these were measured."""
        return all(self.turns.get(name) for name in names)

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


def report(data: dict[str, Any]) -> str:
    """All tables, as Markdown.

    Args:
        data: as the benchmark writes it.
    """
    by_name, versions = groups_of(data), data["versions"]
    lines = [
        f"# Benchmark on {data['device']}",
        "",
        f"{data['precision']}, torch {versions['torch']}, Python {versions['python']}, commit "
        f"{(data['git_commit'] or 'unknown')[:10]}. Batches of 128 unless it is said otherwise; medians over the "
        "rounds, and quartiles. Ours is the training loop with everything on but evaluation and checkpoints; a user's "
        "is `scripts/benchmark/users_loop.py`, with torch's defaults."
        + (f" Memory allocator: {versions['preloaded'] or versions['libc']}." if "libc" in versions else "")
        + (f" {data['minutes']:g} minutes." if "minutes" in data else ""),
        "",
        *summary(data),
    ]
    for model in dict.fromkeys(name.partition(": ")[0] for name in by_name):
        own = {name.partition(": ")[2]: group for name, group in by_name.items() if name.startswith(f"{model}: ")}
        limit, rows = own.get("limit"), {method: group for method, group in own.items() if method in METHODS}
        complete = limit is not None and limit.has(*COMPLETE)
        if complete or rows:
            lines += ["", f"## {model}"]
        if complete:
            lines += ["", *_limit_table(limit, own.get("user's loop"))]
            rows = {"sgd": limit, "sam": limit} | rows
        if rows:
            lines += ["", *_method_table(rows)]
    lines += _others(by_name)
    if data["not_measured"]:
        lines += ["", f"Not measured: {'; '.join(data['not_measured'])}."]
    return "\n".join(lines)


def groups_of(data: dict[str, Any]) -> dict[str, Measured]:
    """What was measured, by name."""
    return {name: Measured(**group) for name, group in data["groups"].items()}


def summary(data: dict[str, Any]) -> list[str]:
    """A column for each network: ratios, medians over the rounds."""
    by_name = groups_of(data)
    limits = {name.partition(": ")[0]: group for name, group in by_name.items() if name.endswith(": limit")}
    models = [model for model, group in limits.items() if group.has(*COMPLETE)]
    rows: dict[str, list[str]] = {}

    def add(title: str, cell: str) -> None:
        rows.setdefault(title, []).append(cell)

    for model in models:
        group, users = limits[model], by_name.get(f"{model}: user's loop")
        add("SAM's step / its two bare passes", f"{statistics.median(_over_limit(group, 'sam', _best(group))):.2f}")
        for precision in ("fp32", "autocast"):
            there = users is not None and users.has(f"user, {precision}", "sam")
            ratio = f"{statistics.median(users.steps_over(f'user, {precision}', 'sam')):.2f}" if there else "–"
            add(f"a user's loop, {precision} / ours", ratio)
        add("SAM, images/s", f"{128 / statistics.median(group.seconds('sam')):,.0f}")
        add("SGD, images/s", f"{128 / statistics.median(group.seconds('sgd')):,.0f}")
        add("SAM's FLOP/s / a matrix product's", f"{_utilisation(group):.0%}")
        add("preparing a batch / SAM's step", f"{statistics.median(group.steps_over('batches', 'sam')):.1%}")
        share = f"{_evaluation_share(group, 'sgd'):.1%}" if group.evaluation_seconds is not None else "–"
        add("evaluating every 5th of 200 epochs / training, SGD", share)
    lines = [f"| | {' | '.join(models)} |", f"| --- |{' --- |' * len(models)}"] if models else []
    return lines + [f"| {title} | {' | '.join(cells)} |" for title, cells in rows.items()]


def _best(group: Measured) -> str:
    there = [name for name in ("limit", "limit, compiled") if group.has(name)]
    return min(there, key=lambda name: statistics.median(group.seconds(name)))


def _utilisation(group: Measured) -> float:
    peak = group.facts["matmul"]["flop"] / statistics.median(group.seconds("matmul"))
    return 2 * group.facts["limit"]["flop"] / statistics.median(group.seconds("sam")) / peak


def _evaluation_share(group: Measured, method: str) -> float:
    return group.evaluation_seconds / (5 * statistics.median(group.seconds(method)) * math.ceil(IMAGES / 128))


def _limit_table(group: Measured, users: Measured | None) -> list[str]:
    flop, sam = group.facts["limit"]["flop"], statistics.median(group.seconds("sam"))
    peak = group.facts["matmul"]["flop"] / statistics.median(group.seconds("matmul"))
    rows = [
        f"| SAM's step, {len(group.turns['sam'])} rounds | |",
        "| --- | --- |",
        f"| ours, {group.facts['sam']['engine']} | {_milliseconds(group.seconds('sam'))} |",
        f"| its two passes alone | {_milliseconds([2 * s for s in group.seconds('limit')])} |",
        *(
            [f"| the same, compiled | {_milliseconds([2 * s for s in group.seconds('limit, compiled')])} |"]
            if group.has("limit, compiled")
            else []
        ),
        f"| ours / the faster of these | {_spread(_over_limit(group, 'sam', _best(group)))} |",
    ]
    if users is not None:
        for name, title in (("user, fp32", "fp32"), ("user, autocast", "autocast")):
            if not users.has(name, "sam"):
                continue
            rows.append(f"| a user's loop, {title} | {_milliseconds(users.seconds(name))} |")
            rows.append(f"| a user's loop, {title} / ours | {_spread(users.steps_over(name, 'sam'))} |")
    seconds = sam * math.ceil(IMAGES / 128)
    rows += [
        f"| {math.ceil(IMAGES / 128)} such steps (50,000 images) | {seconds:.2f} s |",
        f"| floating-point operations of a pass | {flop / 1e9:.1f} G |",
        f"| ours, in FLOP/s | {2 * flop / sam / 1e12:.3f} T |",
        f"| a matrix product of large squares, in FLOP/s | {peak / 1e12:.3f} T |",
        f"| ours / the matrix product | {_utilisation(group):.1%} |",
        f"| preparing a batch | {_milliseconds(group.seconds('batches'))} |",
        f"| preparing a batch / the step | {_percent(group.steps_over('batches', 'sam'))} |",
        *_evaluation_rows(group),
        f"| peak memory of the process | {group.turns['sam'][-1]['peak_memory_bytes'] / 2**20:,.0f} MiB |",
    ]
    return rows


def _evaluation_rows(group: Measured) -> list[str]:
    if group.evaluation_seconds is None:
        return []
    shares = f"SAM {_evaluation_share(group, 'sam'):.2%}, SGD {_evaluation_share(group, 'sgd'):.2%}"
    return [
        f"| evaluating 10,000 images (once) | {group.evaluation_seconds:.3f} s |",
        f"| evaluating every 5th of 200 epochs / training | {shares} |",
    ]


def _over_limit(group: Measured, name: str, limit: str = "limit") -> list[float]:
    """Seconds of a step over those of as many bare passes, in each round."""
    turns = zip(group.turns[name], group.turns[limit], strict=True)
    return [turn["seconds"] / (turn["passes"] * bare["seconds"]) for turn, bare in turns]


def _method_table(rows: dict[str, Measured]) -> list[str]:
    lines = [
        "| method | passes | rounds | a step | images/s | step / (passes × SGD's step) | step / (passes × bare pass) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, group in rows.items():
        if group.has(method, "sgd", "limit"):
            passes, seconds = group.turns[method][0]["passes"], group.seconds(method)
            lines.append(
                f"| {METHODS[method].title} | {passes:.3g} | {len(seconds)} | {_milliseconds(seconds)} | "
                f"{128 / statistics.median(seconds):,.0f} | {_spread(group.ratios(method, 'sgd'))} | "
                f"{_spread(_over_limit(group, method))} |"
            )
    return lines


def _others(by_name: dict[str, Measured]) -> list[str]:
    lines = []
    for name, group in by_name.items():
        model, _, what = name.partition(": ")
        if what == "engines" and group.turns:
            first = next(iter(group.turns))
            lines += ["", f"## Engines, {model}", "", f"| engine | a step | 391 steps | step / {first}'s |"]
            lines.append("| --- | --- | --- | --- |")
            for engine in group.turns:
                epoch = statistics.median(group.seconds(engine)) * math.ceil(IMAGES / 128)
                lines.append(
                    f"| {group.facts[engine]['engine']} | {_milliseconds(group.seconds(engine))} | {epoch:.2f} s | "
                    f"{_spread(group.steps_over(engine, first))} |"
                )
        elif what == "threads":
            lines += ["", f"## Threads, {model}", "", "| threads | SAM's step | images/s |", "| --- | --- | --- |"]
            for count in group.turns:
                speed = 128 / statistics.median(group.seconds(count))
                lines.append(f"| {count} | {_milliseconds(group.seconds(count))} | {speed:,.0f} |")
        elif what == "GPUs":
            lines += ["", f"## Several GPUs, {model}", "", "| GPUs | a step | images/s |", "| --- | --- | --- |"]
            for count in group.turns:
                speed = 128 * int(count) / statistics.median(group.seconds(count))
                lines.append(f"| {count} | {_milliseconds(group.seconds(count))} | {speed:,.0f} |")
    scaled = {name: group for name, group in by_name.items() if re.search(r": (batch \d+|width)$", name)}
    scaling = {name: group for name, group in scaled.items() if group.has("limit", "sam")}
    if scaling:
        lines += ["", "## Batch size and width", "", "| | SAM's step | images/s | step / two bare passes |"]
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


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        sys.exit(__doc__.strip())
    print(report(json.loads(Path(arguments[0]).read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
