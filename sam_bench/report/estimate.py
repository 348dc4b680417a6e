"""What runs that nobody has made would take: from what a benchmark measured, or from what a GPU could do at most."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from sam_bench.report.markup import markdown
from sam_bench.report.published import PUBLISHED
from sam_bench.report.rows import Record, distinct, title_of

GIGAFLOP = {
    "resnet8": 0.024, "resnet20": 0.081, "resnet56": 0.251, "resnet18": 1.111, "wrn16_4": 0.785, "wrn16_8": 3.096,
    "wrn22_8": 4.908, "wrn28_2": 0.429, "wrn28_10": 10.487, "resnext29_32x4d": 1.548, "pyramidnet110": 9.436,
    "pyramidnet272": 8.978, "airbench94": 0.236, "airbench96": 0.904,
}  # fmt: skip
"""Of one image's forward pass, two for each multiply-add; forward and backward are three times as much."""

PEAK = {"H200": 989e12, "RTX 4090": 165e12}
"""Floating-point operations in a second in bfloat16, dense, as their maker has them."""

SHARE = (0.15, 0.4)
"""Of the peak, what training reaches: from plain eager code to compiled and captured. Assumed, not measured here."""

LAUNCHES = 1e-3
"""Seconds that a pass takes at least, however small the network. Assumed, too."""

EPOCHS, IMAGES, BATCH, SEEDS = 200, 50_000, 128, 3
"""Of the published protocols, and how many seeds a table of them has."""


class Estimate:
    """Seconds of training on the machine of a benchmark.

    Args:
        benchmark: what `make bench` has written.
    """

    def __init__(self, benchmark: Mapping[str, Any]):
        self.device = benchmark["device"]
        self.rates: dict[str, float] = {}
        """Images a second through forward and backward, by network."""
        for comparison in benchmark["comparisons"]:
            for result in comparison["results"]:
                case = result["case"]
                if comparison["question"] == "lower bound" and (case["kind"], case["method"]) == ("ours", "sgd"):
                    seconds = median(turn["seconds"] for turn in result["turns"])
                    self.rates[comparison["model"]] = case["batch_size"] / seconds

    def seconds(self, network: str, images: float) -> float:
        """Return the time that so many images take through forward and backward.

        A network that was not measured takes its operations at the speed of the measured one that is nearest in size.
        """
        nearest = min(self.rates, key=lambda each: abs(GIGAFLOP[each] - GIGAFLOP[network]))
        return images / self.rates[nearest] * GIGAFLOP[network] / GIGAFLOP[nearest]

    def over_measured(self, records: Iterable[Record]) -> list[float]:
        """Return the estimates over the seconds of the runs that were made on the benchmark's machine, in order."""
        return sorted(
            self.seconds(run["config"]["model"]["name"], run["passes"] * run["config"]["trainer"]["batch_size"])
            / run["train_seconds"]
            for run in records
            if run["device"] == self.device and run["status"] == "finished" and run["train_seconds"]
        )


def not_run(estimate: Estimate, measured: Sequence[tuple[str, str]] = ()) -> str:
    """The published protocols as a table, with what they would cost.

    Args:
        measured: method and network of those that were run.
    """
    cells = []
    for figure in PUBLISHED:
        if (figure.method, figure.model) not in measured:
            passes = EPOCHS * SEEDS * math.ceil(IMAGES / BATCH) * (1 if figure.method == "sgd" else 2)
            operations = 3e9 * GIGAFLOP[figure.model] * passes * BATCH
            line = [f"{title_of(figure.method)} on {figure.model}", f"`{figure.command}`"]
            line.append(_hours(estimate.seconds(figure.model, passes * BATCH)))
            for peak in PEAK.values():
                ends = [max(operations / (peak * share), passes * LAUNCHES) for share in reversed(SHARE)]
                line.append(" – ".join(distinct(map(_hours, ends))))
            cells.append(line)
    gpus = [f"{name}, hours" for name in PEAK]
    return markdown(["not run", f"command, with seed=0 to {SEEDS - 1}", f"{estimate.device}, hours", *gpus], cells)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
