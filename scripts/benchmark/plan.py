"""What the benchmark compares on a device."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import torch

from scripts.benchmark.records import Case, Comparison

EARLY = 3
"""The number of networks whose engines are compared early on; the next one takes minutes to compile."""


@dataclass(frozen=True)
class Plan:
    """The cases and comparisons of a device.

    Args:
        device: "cpu" or "cuda".
        precision: of all but the users' loops.
    """

    device: str
    precision: str

    def comparisons(self, models: list[str], methods: list[str], scaling: bool) -> list[Comparison]:
        """Return what is compared, the most important first."""
        engines = self.engines(models)
        found = [self.with_lower_bound(model) for model in models] + engines[:EARLY]
        found += [self.with_users_loop(model) for model in models]
        found += [self.with_sgd(model, method) for model in models for method in methods if method != "sgd"]
        if scaling:
            found += self.scaling()
        return found + engines[EARLY:]

    def case(self, kind: str, model: str, **fields: Any) -> Case:
        """Return a case of this device and precision."""
        return Case(kind, model, **{"device": self.device, "precision": self.precision} | fields)

    def ours(self, model: str, method: str = "sam", **fields: Any) -> Case:
        """Return our training loop; on CUDA a captured step is replayed before it is measured."""
        case = self.case("ours", model, method=method, **fields)
        return dataclasses.replace(case, warmup=10 * case.period) if self.device == "cuda" else case

    def lower_bound(self, model: str, engine: str | None = None, batch_size: int = 128) -> Case:
        """Return the bare pass, by the fastest engine unless another is given."""
        fastest, warmup = ("graph", 10) if self.device == "cuda" else ("eager", 2)
        return self.case("lower bound", model, engine=engine or fastest, batch_size=batch_size, warmup=warmup)

    def with_lower_bound(self, model: str) -> Comparison:
        """Compare SGD and SAM with the passes that they cannot do without; eager ones are the slowest on CUDA."""
        sam = self.ours(model)
        cases = [self.lower_bound(model), self.lower_bound(model, "compile"), self.ours(model, "sgd"), sam]
        cases += [self.case("batches", model, method="sam"), self.case("matmul", model)]
        return Comparison("lower bound", model, tuple(cases), evaluated=sam)

    def with_users_loop(self, model: str) -> Comparison:
        """Compare SAM with what many write; on the CPU, workers would take the cores that the network needs."""
        workers = min(8, (os.cpu_count() or 1) // 2) if self.device == "cuda" else 0
        loops = [self.case("user's loop", model, precision=p, workers=workers) for p in ("fp32", "autocast")]
        return Comparison("user's loop", model, (self.ours(model), *loops))

    def with_sgd(self, model: str, method: str) -> Comparison:
        """Compare a method with SGD and with its bare passes."""
        return Comparison("method", model, (self.lower_bound(model), self.ours(model, "sgd"), self.ours(model, method)))

    def engines(self, models: list[str]) -> list[Comparison]:
        """Compare the ways to take SAM's steps."""
        compared = models[:1]
        engines = ["eager", "compile"]
        if self.device == "cuda":
            compared = ["wrn16_8", "wrn22_8", "resnet20", "pyramidnet110"]
            engines = ["graph", "compile", "eager"]
        return [Comparison("engines", model, tuple(self.ours(model, engine=e) for e in engines)) for model in compared]

    def scaling(self) -> list[Comparison]:
        """Compare batch sizes and widths; on the CPU numbers of threads, on CUDA of devices."""
        found = []
        if self.device == "cpu":
            counts = sorted({1, torch.get_num_threads(), os.cpu_count() or 1})
            cases = tuple(self.ours("resnet20", threads=count) for count in counts)
            found.append(Comparison("threads", "resnet20", cases))
        for size in (32, 64, 256, 512):
            cases = (self.lower_bound("resnet20", batch_size=size), self.ours("resnet20", batch_size=size))
            found.append(Comparison("batch size", "resnet20", cases))
        for model in ("wrn16_4", "wrn28_2"):
            found.append(Comparison("width", model, (self.lower_bound(model), self.ours(model))))
        count = torch.cuda.device_count()
        if self.device == "cuda" and count > 1:  # each with a batch of the usual size
            together = self.ours("wrn16_8", batch_size=128 * count, processes=count)
            found.append(Comparison("GPUs", "wrn16_8", (self.ours("wrn16_8", engine="compile"), together)))
        return found
