"""The plan of the benchmark: which cases it compares on a device."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import torch

from scripts.benchmark.records import Case, Comparison

#: Number of networks whose engines are compared early; the next network takes minutes to compile.
EARLY = 3


@dataclass(frozen=True)
class Plan:
    """The cases and comparisons for a device.

    Args:
        device: "cpu" or "cuda".
        precision: precision of all cases except the users' loops.
    """

    device: str
    precision: str

    def comparisons(self, models: list[str], methods: list[str], scaling: bool) -> list[Comparison]:
        """Return the comparisons, the most important first."""
        engines = self.engines(models)
        planned = [self.with_lower_bound(model) for model in models] + engines[:EARLY]
        planned += [self.with_users_loop(model) for model in models]
        planned += [self.with_sgd(model, method) for model in models for method in methods if method != "sgd"]
        if scaling:
            planned += self.scaling()
        return planned + engines[EARLY:]

    def case(self, kind: str, model: str, **fields: Any) -> Case:
        """Return a case with this device and precision, unless the fields say otherwise."""
        return Case(kind, model, **{"device": self.device, "precision": self.precision} | fields)

    def ours(self, model: str, method: str = "sam", **fields: Any) -> Case:
        """Return a case of our training loop, on CUDA with enough warm-up for a captured step to be replayed."""
        case = self.case("ours", model, method=method, **fields)
        return dataclasses.replace(case, warmup=10 * case.period) if self.device == "cuda" else case

    def lower_bound(self, model: str, engine: str | None = None, batch_size: int = 128) -> Case:
        """Return a case of bare passes, with the fastest engine unless another is given."""
        fastest, warmup = ("graph", 10) if self.device == "cuda" else ("eager", 2)
        return self.case("lower bound", model, engine=engine or fastest, batch_size=batch_size, warmup=warmup)

    def with_lower_bound(self, model: str) -> Comparison:
        """Compare SGD and SAM with the forward and backward passes that they need at least."""
        # Eager passes are the slowest on CUDA, so they are no lower bound there.
        sam = self.ours(model)
        cases = [self.lower_bound(model), self.lower_bound(model, "compile"), self.ours(model, "sgd"), sam]
        cases += [self.case("batches", model, method="sam"), self.case("matmul", model)]
        return Comparison("lower bound", model, tuple(cases), evaluated=sam)

    def with_users_loop(self, model: str) -> Comparison:
        """Compare SAM with a loop as many users write it."""
        # On the CPU, workers would take the cores that the network needs.
        workers = min(8, (os.cpu_count() or 1) // 2) if self.device == "cuda" else 0
        loops = [
            self.case("user's loop", model, precision=loop_precision, workers=workers)
            for loop_precision in ("fp32", "autocast")
        ]
        return Comparison("user's loop", model, (self.ours(model), *loops))

    def with_sgd(self, model: str, method: str) -> Comparison:
        """Compare a method with SGD and with bare passes."""
        return Comparison("method", model, (self.lower_bound(model), self.ours(model, "sgd"), self.ours(model, method)))

    def engines(self, models: list[str]) -> list[Comparison]:
        """Compare the engines that take SAM's steps, for each network."""
        compared = models[:1]
        engines = ["eager", "compile"]
        if self.device == "cuda":
            compared = ["wrn16_8", "wrn22_8", "resnet20", "pyramidnet110"]
            engines = ["graph", "compile", "eager"]
        return [
            Comparison("engines", model, tuple(self.ours(model, engine=engine) for engine in engines))
            for model in compared
        ]

    def scaling(self) -> list[Comparison]:
        """Compare batch sizes and widths; on the CPU also numbers of threads, on CUDA also numbers of GPUs."""
        planned = []
        if self.device == "cpu":
            counts = sorted({1, torch.get_num_threads(), os.cpu_count() or 1})
            cases = tuple(self.ours("resnet20", threads=count) for count in counts)
            planned.append(Comparison("threads", "resnet20", cases))

        for size in (32, 64, 256, 512):
            cases = (self.lower_bound("resnet20", batch_size=size), self.ours("resnet20", batch_size=size))
            planned.append(Comparison("batch size", "resnet20", cases))
        for model in ("wrn16_4", "wrn28_2"):
            planned.append(Comparison("width", model, (self.lower_bound(model), self.ours(model))))

        count = torch.cuda.device_count()
        if self.device == "cuda" and count > 1:  # each GPU gets a batch of the usual size
            together = self.ours("wrn16_8", batch_size=128 * count, processes=count)
            planned.append(Comparison("GPUs", "wrn16_8", (self.ours("wrn16_8", engine="compile"), together)))
        return planned
