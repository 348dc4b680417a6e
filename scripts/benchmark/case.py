"""One process of the benchmark: gets ready, then works as often as it is told, and says how long it took.

python scripts/benchmark/case.py kind=ours|limit|user|batches|matmul [model=] [method=] [engine=] [batch=] [device=] …

Started by `scripts/benchmark/benchmark.py`, which writes a line to its standard input for each turn and reads a line of JSON from
its standard output. Images are generated, in CIFAR-10's size and number.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sam_bench.cli.compose import compose
from sam_bench.data import synthetic
from sam_bench.errors import UserError
from sam_bench.loggers.console import Reporter
from sam_bench.models.registry import model as build_model
from sam_bench.runs import run
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.build import load_data, prepare
from sam_bench.training.cuda_graph import CudaGraphs
from sam_bench.training.evaluate import evaluate
from sam_bench.training.loss import cross_entropy, smoothing_for_torch
from sam_bench.training.step import WARMUP_STEPS

SMOOTHING = smoothing_for_torch(0.1, "others")
ENDLESS = 10**6


class Ours:
    """Steps of a training run, with everything on: data, augmentation, schedules, totals, progress."""

    def __init__(self, given: dict[str, str]):
        config = compose(
            [
                "data=synthetic",
                f"model={given['model']}",
                f"optimizer={given['method']}",
                f"trainer.batch_size={given['batch']}",
                f"trainer.device={given['device']}",
                f"trainer.precision={given['precision']}",
                f"trainer.engine={given['engine']}",
                f"trainer.epochs={ENDLESS}",
                f"trainer.eval_every={ENDLESS}",
                "trainer.last_batch=drop",  # every step is of a whole batch
            ]
        )
        self.hardware, _ = run.located(config)
        self.hardware.configure(deterministic=False)
        self.training = prepare(config, load_data(config.data), self.hardware, Processes(self.hardware.device.type))
        self.training.epoch = 1  # in the first one a user is told how long the whole run will take
        leads = self.training.processes.leads
        self.pauses = self.training.run(Reporter("plain" if leads else "none", "benchmark", ENDLESS, 0))

    def step(self) -> None:
        if next(self.pauses):
            next(self.pauses)  # the pause after an epoch is none after a step

    def passes(self) -> float:
        """So far."""
        return self.training.optimizer.passes

    def evaluate(self) -> None:
        """On the test set, as after an epoch."""
        training = self.training
        arguments = training.test, training.config.trainer.eval_batch_size, self.hardware, training.processes
        evaluate(training.eval_model, *arguments)
        training.model.train()

    def facts(self) -> dict[str, Any]:
        """What is known once it is warm."""
        return {"engine": self.training.step.engine, "epoch_steps": len(self.training.train)}


class Limit:
    """Forward and backward passes on a fixed batch, and nothing else."""

    def __init__(self, given: dict[str, str]):
        self.hardware = Hardware.choose(given["device"], given["precision"])
        self.hardware.configure(deterministic=False)
        device = self.hardware.device
        torch.manual_seed(0)
        self.model = build_model(given["model"]).to(device, memory_format=torch.channels_last).train()
        images = torch.randn(int(given["batch"]), 3, 32, 32, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (len(images),), device=device)
        self.loss = self._loss if given["engine"] == "eager" else torch.compile(self._loss)
        self.step = self._pass
        if given["engine"] == "graph":
            graphs = CudaGraphs(device)
            with graphs.warmup():
                for _ in range(WARMUP_STEPS):
                    self._pass()
            self.step = graphs.capture(self._pass)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.hardware.autocast():
            logits = self.model(images)
        return cross_entropy(logits, labels, SMOOTHING)

    def _pass(self) -> None:
        for p in self.model.parameters():
            p.grad = None
        self.loss(self.images, self.labels).backward()

    def facts(self) -> dict[str, Any]:
        counter = FlopCounterMode(display=False)
        with counter:
            self._loss(self.images, self.labels).backward()
        return {"flop": counter.get_total_flops(), "device": self.hardware.name, "precision": self.hardware.precision}


class User:
    """Steps of a loop as many write it: see `users_loop.py`."""

    def __init__(self, given: dict[str, str]):
        from scripts.benchmark.users_loop import UsersLoop  # needs torchvision and pytorch-optimizer

        self.hardware = Hardware.choose(given["device"], "fp32")
        torch.manual_seed(0)
        self.loop = UsersLoop(
            build_model(given["model"]),
            synthetic.load()[0],
            device=self.hardware.device,
            precision=given["precision"],
            batch=int(given["batch"]),
            workers=int(given["workers"]),
            crop=True,
            epochs=200,
            lr=0.1,
            rho=0.05,
        )
        self.steps = self._steps()

    def _steps(self) -> Iterator[None]:
        while True:
            yield from self.loop.epoch()

    def step(self) -> None:
        next(self.steps)

    def facts(self) -> dict[str, Any]:
        return {}


class PreparedBatches(Ours):
    """Our batches, with nothing done with them."""

    def __init__(self, given: dict[str, str]):
        super().__init__(given)
        self.batches = iter(())

    def step(self) -> None:
        if next(self.batches, None) is None:
            self.batches = self.training.train.epoch(0)
            next(self.batches)

    def facts(self) -> dict[str, Any]:
        return {}


class MatrixProduct:
    """A product of two large square matrices in the run's precision: a yardstick, which a convolution may surpass."""

    def __init__(self, given: dict[str, str]):
        self.hardware = Hardware.choose(given["device"], given["precision"])
        self.hardware.configure(deterministic=False)
        self.size = 8192 if self.hardware.device.type == "cuda" else 2048
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.hardware.precision, torch.float32)
        self.a, self.b = (torch.randn(self.size, self.size, device=self.hardware.device, dtype=dtype) for _ in range(2))

    def step(self) -> None:
        torch.mm(self.a, self.b)

    def facts(self) -> dict[str, Any]:
        return {"flop": 2 * self.size**3}


KINDS: dict[str, Callable] = {
    "ours": Ours,
    "limit": Limit,
    "user": User,
    "batches": PreparedBatches,
    "matmul": MatrixProduct,
}


def main(arguments: list[str]) -> None:
    given = {"model": "resnet20", "method": "sam", "engine": "auto", "batch": "128", "device": "auto", "workers": "2"}
    given |= {"precision": "auto", "warmup": "2"} | dict(argument.partition("=")[::2] for argument in arguments)
    if given.get("kind") not in KINDS:
        sys.exit(__doc__.strip())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever else is printed
    synthetic.TRAIN, synthetic.TEST = 50_000, 10_000
    processes = None

    def answer(**facts: Any) -> None:
        if processes is None or processes.leads:
            print(json.dumps(facts), file=answers, flush=True)

    try:
        contender = KINDS[given["kind"]](given)
        processes = Processes(contender.hardware.device.type)
        contender.hardware.forget_peak_memory()
        for _ in range(int(given["warmup"])):
            contender.step()
        facts = contender.facts()
    except (UserError, ModuleNotFoundError) as error:
        answer(error=str(error))
        sys.exit(1)
    answer(**facts, **timed(contender, contender.step, 1), threads=torch.get_num_threads(), torch=torch.__version__)
    while command := processes.agree(sys.stdin.readline() if processes.leads else None).strip():
        if command == "evaluate":
            contender.evaluate()  # warms up
            answer(**timed(contender, contender.evaluate, 1))
        else:
            answer(**timed(contender, contender.step, int(command)))


def timed(contender: Any, action: Callable[[], None], count: int) -> dict[str, float]:
    """Seconds and passes of one action, on average over so many, and the peak memory until now."""
    passes = getattr(contender, "passes", lambda: 0.0)
    contender.hardware.synchronize()
    before, began = passes(), time.perf_counter()
    for _ in range(count):
        action()
    contender.hardware.synchronize()
    elapsed = time.perf_counter() - began
    peak = contender.hardware.peak_memory()
    return {"seconds": elapsed / count, "passes": (passes() - before) / count, "peak_memory_bytes": peak}


if __name__ == "__main__":
    main(sys.argv[1:])
