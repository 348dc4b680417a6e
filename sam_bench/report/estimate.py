"""Estimates of the training time of runs not made yet, from a benchmark or from a GPU's peak speed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from sam_bench.report.markup import markdown
from sam_bench.report.published import PUBLISHED
from sam_bench.report.rows import Record, distinct, title_of

#: 10⁹ operations of one image's forward pass, two for each multiply-add. With the backward pass it is three times that.
GIGAFLOP = {
    "resnet8": 0.024, "resnet20": 0.081, "resnet56": 0.251, "resnet18": 1.111, "wrn16_4": 0.785, "wrn16_8": 3.096,
    "wrn22_8": 4.908, "wrn28_2": 0.429, "wrn28_10": 10.487, "resnext29_32x4d": 1.548, "pyramidnet110": 9.436,
    "pyramidnet272": 8.978, "airbench94": 0.236, "airbench96": 0.904,
}  # fmt: skip

#: Peak floating-point operations per second in bfloat16, dense, as the maker states them.
PEAK = {"H200": 989e12, "RTX 4090": 165e12}

#: The share of the peak that training reaches, from plain eager code to compiled and captured. Assumed, not measured.
SHARE = (0.15, 0.4)

#: The least seconds of a pass, however small the network. Assumed, not measured.
LAUNCHES = 1e-3

#: Epochs, training images and batch size of the published protocols, and the seeds of a table of them.
EPOCHS, IMAGES, BATCH, SEEDS = 200, 50_000, 128, 3


class Estimate:
    """An estimate of training times on the machine of a benchmark.

    Args:
        benchmark: the result of `make bench`.
    """

    def __init__(self, benchmark: Mapping[str, Any]):
        self.device = benchmark["device"]
        #: Images per second through forward and backward, by network.
        self.rates: dict[str, float] = {}
        for comparison in benchmark["comparisons"]:
            for result in comparison["results"]:
                case = result["case"]
                if comparison["question"] == "lower bound" and (case["kind"], case["method"]) == ("ours", "sgd"):
                    seconds = median(turn["seconds"] for turn in result["turns"])
                    self.rates[comparison["model"]] = case["batch_size"] / seconds

    def seconds(self, network: str, images: float) -> float:
        """Return the seconds that a number of images takes through forward and backward.

        An unmeasured network is assumed as fast, in operations per second, as the measured one nearest in size.
        """
        nearest = min(self.rates, key=lambda name: abs(GIGAFLOP[name] - GIGAFLOP[network]))
        return images / self.rates[nearest] * GIGAFLOP[network] / GIGAFLOP[nearest]

    def over_measured(self, records: Iterable[Record]) -> list[float]:
        """Return the ratios of estimated to measured seconds, sorted, for finished runs on the benchmark's device."""
        return sorted(
            self.seconds(run["config"]["model"]["name"], run["passes"] * run["config"]["trainer"]["batch_size"])
            / run["train_seconds"]
            for run in records
            if run["device"] == self.device and run["status"] == "finished" and run["train_seconds"]
        )


def not_run(estimate: Estimate, measured: Sequence[tuple[str, str]] = ()) -> str:
    """Return a Markdown table of the published protocols that were not run, with their estimated hours.

    Args:
        measured: method and network of the protocols that were run.
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
