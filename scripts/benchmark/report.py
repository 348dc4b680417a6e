"""Print the benchmark's report again, from the data that it wrote.

python scripts/benchmark/report.py results/benchmark/<device>.json
"""

import json
import math
import sys
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from sam_bench.cli.arguments import parser
from sam_bench.optim.registry import METHODS
from scripts.benchmark.records import CaseResult, ComparisonResult
from scripts.markdown import table

EPOCH_STEPS = math.ceil(50_000 / 128)
#: Precisions of the users' loops.
PRECISIONS = ("fp32", "autocast")
METHOD_COLUMNS = (
    "method", "passes", "rounds", "a step", "images/s", "step / (passes × SGD's step)", "step / (passes × bare pass)"
)  # fmt: skip
#: Comparisons of cases that differ in a number: the title, the field with the number, and what is timed.
COUNTED = {"threads": ("Threads", "threads", "SAM's step"), "GPUs": ("Several GPUs", "processes", "a step")}


class AgainstLowerBound:
    """A network's comparison with its lower bound.

    Args:
        users: the network's comparison with users' loops, if there is one.

    Attributes:
        bare: the bare passes by the engine that is used by default: eager on the CPU, CUDA graphs on a GPU.
        compiled: the bare passes, compiled.
        best: the faster of the two.
    """

    def __init__(self, measured: ComparisonResult, users: ComparisonResult | None):
        self.model = measured.model
        self.sgd = measured.find(kind="ours", method="sgd")
        self.sam = measured.find(kind="ours", method="sam")
        self.batches = measured.find(kind="batches")
        self.matmul = measured.find(kind="matmul")
        bounds = [result for result in measured.results if result.case.kind == "lower bound"]
        self.compiled = next((bound for bound in bounds if bound.case.engine == "compile"), None)
        self.bare = next((bound for bound in bounds if bound is not self.compiled), None)
        self.best = min(bounds, key=lambda bound: bound.median, default=None)
        self.evaluation_seconds = measured.evaluation_seconds
        self.users = users

    @property
    def complete(self) -> bool:
        """True if there are enough results for a table."""
        return None not in (self.bare, self.sgd, self.sam, self.batches, self.matmul)

    def flops(self) -> tuple[float, float]:
        """Return FLOP/s of SAM's step and of the matrix product."""
        return 2 * self.bare.facts["flop"] / self.sam.median, self.matmul.facts["flop"] / self.matmul.median

    def evaluation_share(self, result: CaseResult) -> float:
        """Return the ratio of an evaluation's seconds to those of five epochs of training."""
        return self.evaluation_seconds / (5 * result.median * EPOCH_STEPS)

    def over_users(self, precision: str) -> tuple[CaseResult, list[float]] | None:
        """Return the user's loop and the ratios of its seconds per step to ours; None if either was not measured."""
        loop = self.users and self.users.find(kind="user's loop", precision=precision)
        ours = self.users and self.users.find(kind="ours")
        return (loop, loop.over(ours)) if loop and ours else None

    def summary(self) -> dict[str, str]:
        """Return the network's column of the summary: a cell for each row title."""
        rows = {"SAM's step / its two bare passes": f"{median(self.sam.over_passes_of(self.best)):.2f}"}
        for precision in PRECISIONS:
            users = self.over_users(precision)
            rows[f"a user's loop, {precision} / ours"] = f"{median(users[1]):.2f}" if users else "–"

        flops, peak_flops = self.flops()
        share = "–" if self.evaluation_seconds is None else f"{self.evaluation_share(self.sgd):.1%}"
        return rows | {
            "SAM, images/s": f"{self.sam.images_per_second:,.0f}",
            "SGD, images/s": f"{self.sgd.images_per_second:,.0f}",
            "SAM's FLOP/s / a matrix product's": f"{flops / peak_flops:.0%}",
            "preparing a batch / SAM's step": f"{median(self.batches.over(self.sam)):.1%}",
            "evaluating every 5th of 200 epochs / training, SGD": share,
        }

    def table(self) -> list[str]:
        """Return the table of SAM's step."""
        rows = {
            f"ours, {self.sam.facts['engine']}": milliseconds(self.sam.seconds),
            "its two passes alone": milliseconds([2 * s for s in self.bare.seconds]),
        }
        if self.compiled:
            rows["the same, compiled"] = milliseconds([2 * s for s in self.compiled.seconds])
        rows["ours / the faster of these"] = spread(self.sam.over_passes_of(self.best))
        for precision in PRECISIONS:
            if users := self.over_users(precision):
                rows[f"a user's loop, {precision}"] = milliseconds(users[0].seconds)
                rows[f"a user's loop, {precision} / ours"] = spread(users[1])
        return table([f"SAM's step, {len(self.sam.turns)} rounds", ""], (rows | self.details()).items())

    def details(self) -> dict[str, str]:
        """Return the remaining rows of the table of SAM's step, by row title."""
        flops, peak_flops = self.flops()
        rows = {
            f"{EPOCH_STEPS} such steps (50,000 images)": f"{self.sam.median * EPOCH_STEPS:.2f} s",
            "floating-point operations of a pass": f"{self.bare.facts['flop'] / 1e9:.1f} G",
            "ours, in FLOP/s": f"{flops / 1e12:.3f} T",
            "a matrix product of large squares, in FLOP/s": f"{peak_flops / 1e12:.3f} T",
            "ours / the matrix product": f"{flops / peak_flops:.1%}",
            "preparing a batch": milliseconds(self.batches.seconds),
            "preparing a batch / the step": spread(self.batches.over(self.sam), "{:.2%}"),
        }

        if self.evaluation_seconds is not None:
            shares = f"SAM {self.evaluation_share(self.sam):.2%}, SGD {self.evaluation_share(self.sgd):.2%}"
            rows["evaluating 10,000 images (once)"] = f"{self.evaluation_seconds:.3f} s"
            rows["evaluating every 5th of 200 epochs / training"] = shares
        peak = self.sam.turns[-1]["peak_memory_bytes"] / 2**20
        return rows | {"peak memory of the process": f"{peak:,.0f} MiB"}


def report(data: dict[str, Any]) -> str:
    """Return the whole report in Markdown.

    Args:
        data: the content of the JSON file that the benchmark writes.
    """
    comparisons = read(data)
    lines = [f"# Benchmark on {data['device']}", "", introduction(data), "", *summary(data)]
    for model in dict.fromkeys(comparison.model for comparison in comparisons):
        lines += of_network([each for each in comparisons if each.model == model])

    for comparison in comparisons:
        if comparison.question == "engines" and comparison.results:
            lines += of_engines(comparison)
        elif comparison.question in COUNTED and comparison.results:
            lines += of_counts(comparison)
    lines += of_scaling([each for each in comparisons if each.question in ("batch size", "width")])

    if data["not_measured"]:
        lines += ["", f"Not measured: {'; '.join(data['not_measured'])}."]
    return "\n".join(lines)


def read(data: dict[str, Any]) -> list[ComparisonResult]:
    """Return the comparisons in the benchmark's data."""
    return [ComparisonResult.from_dict(comparison) for comparison in data["comparisons"]]


def against_lower_bound(comparisons: list[ComparisonResult]) -> list[AgainstLowerBound]:
    """Return each network's comparison with its lower bound, if it has all results that a table needs."""
    users = {each.model: each for each in comparisons if each.question == "user's loop"}
    networks = [
        AgainstLowerBound(each, users.get(each.model)) for each in comparisons if each.question == "lower bound"
    ]
    return [network for network in networks if network.complete]


def introduction(data: dict[str, Any]) -> str:
    """Return the paragraph on versions, settings and the meaning of the numbers."""
    versions = data["versions"]
    return (
        f"{data['precision']}, torch {versions['torch']}, Python {versions['python']}, commit "
        f"{(data['git_commit'] or 'unknown')[:10]}. Batches of 128 unless it is said otherwise; medians over the "
        "rounds, and quartiles. Ours is the training loop with everything on but evaluation and checkpoints; a user's "
        "is `scripts/benchmark/users_loop.py`, with torch's defaults."
        + (f" Memory allocator: {versions['preloaded'] or versions['libc']}." if "libc" in versions else "")
        + (f" {data['minutes']:g} minutes." if "minutes" in data else "")
    )


def summary(data: dict[str, Any]) -> list[str]:
    """Return the summary table, with a column for each network: medians over the rounds, most of them ratios."""
    columns = {network.model: network.summary() for network in against_lower_bound(read(data))}
    if not columns:
        return []
    titles = next(iter(columns.values()))
    return table(["", *columns], ([title, *(column[title] for column in columns.values())] for title in titles))


def of_network(comparisons: list[ComparisonResult]) -> list[str]:
    """Return a network's section: the table of SAM's step, and the table of methods with SGD and SAM first."""
    compared = against_lower_bound(comparisons)
    rows = {"sgd": [], "sam": []}
    for comparison in comparisons:
        if comparison.question == "method" or (comparison.question == "lower bound" and compared):
            rows |= method_rows(comparison, with_sgd=comparison.question == "lower bound")
    if not any(rows.values()):
        return []
    step = ["", *compared[-1].table()] if compared else []
    return ["", f"## {comparisons[0].model}", *step, "", *table(METHOD_COLUMNS, filter(None, rows.values()))]


def method_rows(comparison: ComparisonResult, with_sgd: bool) -> dict[str, list[str]]:
    """Return the row of each method that was measured beside SGD and bare passes, by method."""
    sgd = comparison.find(kind="ours", method="sgd")
    bare = comparison.find(kind="lower bound")
    rows = {}
    for result in comparison.results if sgd and bare else []:
        if result.case.kind == "ours" and (with_sgd or result is not sgd):
            counts = [f"{result.turns[0]['passes']:.3g}", str(len(result.turns))]
            ratios = [spread(result.over_passes_of(other)) for other in (sgd, bare)]
            rows[result.case.method] = [METHODS[result.case.method].title, *counts, *speed(result), *ratios]
    return rows


def of_engines(comparison: ComparisonResult) -> list[str]:
    """Return the section on the engines that take the steps."""
    first = comparison.results[0]
    rows = []
    for result in comparison.results:
        epoch = f"{result.median * EPOCH_STEPS:.2f} s"
        rows.append((result.facts["engine"], milliseconds(result.seconds), epoch, spread(result.over(first))))
    headings = ("engine", "a step", f"{EPOCH_STEPS} steps", f"step / {first.case.engine}'s")
    return ["", f"## Engines, {comparison.model}", "", *table(headings, rows)]


def of_counts(comparison: ComparisonResult) -> list[str]:
    """Return the section on cases that differ in the number of threads or GPUs."""
    title, field, timed = COUNTED[comparison.question]
    rows = [(str(getattr(result.case, field)), *speed(result)) for result in comparison.results]
    return ["", f"## {title}, {comparison.model}", "", *table((comparison.question, timed, "images/s"), rows)]


def of_scaling(comparisons: list[ComparisonResult]) -> list[str]:
    """Return the section on batch sizes and widths, with a row for each."""
    rows = []
    for comparison in comparisons:
        sam = comparison.find(kind="ours", method="sam")
        bare = comparison.find(kind="lower bound")
        if sam and bare:
            size = f": batch {sam.case.batch_size}" if comparison.question == "batch size" else ""
            rows.append((comparison.model + size, *speed(sam), spread(sam.over_passes_of(bare))))
    headings = ("", "SAM's step", "images/s", "step / two bare passes")
    return ["", "## Batch size and width", "", *table(headings, rows)] if rows else []


def speed(result: CaseResult) -> list[str]:
    """Return milliseconds per step and images per second."""
    return [milliseconds(result.seconds), f"{result.images_per_second:,.0f}"]


def spread(values: list[float], form: str = "{:.3f}") -> str:
    """Return median and quartiles, such as "1.050 (1.038 – 1.071)"."""
    low, _, high = quantiles(values, n=4)
    middle, low, high = (form.format(value) for value in (median(values), low, high))
    return f"{middle} ({low} – {high})"


def milliseconds(seconds: list[float]) -> str:
    """Return median and quartiles, such as "97.36 ms (96.78 – 99.69)"."""
    return spread([1000 * value for value in seconds], "{:.4g}").replace(" ", " ms ", 1)


def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("data", type=Path, help="JSON file that the benchmark has written")
    path = arguments_parser.parse_args(arguments).data
    if not path.is_file():
        arguments_parser.error(f"{path} does not exist")
    print(report(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(sys.argv[1:])
