"""One process of the benchmark, which warms up, then runs steps on request and reports how long they took.

python scripts/benchmark/case.py '{"kind": "ours", "model": "resnet20", "method": "sam", "device": "cpu"}'

`scripts/benchmark/benchmark.py` starts it with the fields of a `Case`. For each turn it reads one line from standard
input, a number of steps or "evaluate", and writes one line of JSON to standard output. The images are generated, with
CIFAR-10's size and number.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from sam_bench.cli.arguments import parser
from sam_bench.cli.compose import compose
from sam_bench.data import synthetic
from sam_bench.data.registry import DATASETS
from sam_bench.errors import UserError
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.build import build_network, load_data, prepare
from sam_bench.training.cuda_graph import CudaGraphs
from sam_bench.training.evaluate import evaluate
from sam_bench.training.loss import cross_entropy, smoothing_for_torch
from sam_bench.training.step import WARMUP_STEPS
from scripts.benchmark.records import Case

CLASSES = DATASETS["synthetic"].classes
SMOOTHING = smoothing_for_torch(0.1, "others", CLASSES)
ENDLESS = 10**6
T = TypeVar("T")


def network(name: str) -> torch.nn.Module:
    """Return an untrained network of `conf/model`."""
    return build_network(compose(["data=synthetic", f"model={name}"]))


def configured(hardware: Hardware) -> Hardware:
    """Return the hardware, configured for speed rather than determinism."""
    hardware.configure(deterministic=False)
    return hardware


def endless(epoch: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Yield the items of one epoch after another, without end."""
    while True:
        yield from epoch()


class Work:
    """A base class for what a case measures.

    Attributes:
        step: the action that is repeated and timed.
    """

    hardware: Hardware
    step: Callable[[], Any]

    def passes(self) -> float:
        """Return the number of passes so far; 0 if they are not counted."""
        return 0.0

    def facts(self) -> dict[str, Any]:
        """Return facts that are known after the warm-up."""
        return {}

    def timed(self, action: Callable[[], Any], count: int) -> dict[str, float]:
        """Repeat an action, and return its mean seconds and passes, and the peak memory so far in bytes."""
        self.hardware.synchronize()
        before = self.passes()
        began = time.perf_counter()
        for _ in range(count):
            action()
        self.hardware.synchronize()
        seconds = (time.perf_counter() - began) / count
        passes = (self.passes() - before) / count
        return {"seconds": seconds, "passes": passes, "peak_memory_bytes": self.hardware.peak_memory()}


class Ours(Work):
    """Steps of a real training run, with data, augmentation, schedules and running totals."""

    def __init__(self, case: Case):
        self.case = case
        trainer = {name: getattr(case, name) for name in ("batch_size", "device", "precision", "engine")}
        trainer |= {"epochs": ENDLESS, "eval_every": ENDLESS, "drop_last": "true"}  # only whole batches
        overrides = [f"trainer.{name}={value}" for name, value in trainer.items()]
        config = compose(["data=synthetic", f"model={case.model}", f"optimizer={case.method}", *overrides])
        spec = RunSpec.resolve(config)
        self.hardware = configured(spec.hardware)
        processes = Processes(self.hardware.device.type)
        self.training = prepare(config, load_data(config.data), self.hardware, spec.engine, processes)
        self.training.epoch = 1  # skips epoch 0, which also prints an estimate of the whole run's time
        self.pauses = self.training.run()

    def step(self) -> None:
        if next(self.pauses):
            next(self.pauses)  # the run also pauses after an epoch, without taking a step

    def passes(self) -> float:
        return self.training.optimizer.passes

    def evaluate(self) -> None:
        """Evaluate on the test set, as a run does after an epoch."""
        training = self.training
        arguments = training.test, training.config.trainer.eval_batch_size, self.hardware, training.processes
        evaluate(training.eval_model, *arguments)
        training.model.train()

    def facts(self) -> dict[str, Any]:
        return {"engine": self.training.step.engine, "epoch_steps": len(self.training.train)}


class LowerBound(Work):
    """Forward and backward passes on one fixed batch, and nothing else."""

    def __init__(self, case: Case):
        self.hardware = configured(Hardware.choose(case.device, case.precision))
        device = self.hardware.device
        torch.manual_seed(0)
        self.model = network(case.model).to(device, memory_format=torch.channels_last).train()
        images = torch.randn(case.batch_size, 3, 32, 32, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (len(images),), device=device)
        self.loss = self._compute_loss if case.engine == "eager" else torch.compile(self._compute_loss)
        self.step = self._capture() if case.engine == "graph" else self._run_pass

    def _capture(self) -> Callable[[], None]:
        graphs = CudaGraphs(self.hardware.device)
        with graphs.warmup():
            for _ in range(WARMUP_STEPS):
                self._run_pass()
        return graphs.capture(self._run_pass)

    def _compute_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.hardware.autocast():
            logits = self.model(images)
        return cross_entropy(logits, labels, SMOOTHING)

    def _run_pass(self) -> None:
        for p in self.model.parameters():
            p.grad = None
        self.loss(self.images, self.labels).backward()

    def facts(self) -> dict[str, Any]:
        counter = FlopCounterMode(display=False)
        with counter:
            self._compute_loss(self.images, self.labels).backward()
        return {"flop": counter.get_total_flops(), "device": self.hardware.name, "precision": self.hardware.precision}


class UsersSteps(Work):
    """Steps of a loop as many users write it; see `users_loop.py`."""

    def __init__(self, case: Case):
        from scripts.benchmark.users_loop import UsersLoop  # here, because it needs torchvision and pytorch-optimizer

        self.hardware = Hardware.choose(case.device, "fp32")
        torch.manual_seed(0)
        model, images = network(case.model), synthetic.load()[0]
        loop = UsersLoop(model, images, self.hardware.device, case.precision, case.batch_size, case.workers)
        steps = endless(loop.epoch)
        self.step = lambda: next(steps)


class PreparedBatches(Work):
    """Batches of our data pipeline, which are prepared and not used."""

    def __init__(self, case: Case):
        ours = Ours(case)
        self.hardware = ours.hardware
        train = ours.training.train
        batches = endless(lambda: train.epoch(0))
        self.step = lambda: next(batches)


class MatrixProduct(Work):
    """A product of two large square matrices in the run's precision.

    It is a yardstick for FLOP/s and not a bound: a convolution may be faster.
    """

    def __init__(self, case: Case):
        self.hardware = configured(Hardware.choose(case.device, case.precision))
        device = self.hardware.device
        self.size = 8192 if device.type == "cuda" else 2048
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.hardware.precision, torch.float32)
        a, b = (torch.randn(self.size, self.size, device=device, dtype=dtype) for _ in range(2))
        self.step = lambda: torch.mm(a, b)

    def facts(self) -> dict[str, Any]:
        return {"flop": 2 * self.size**3}


KINDS: dict[str, Callable[[Case], Work]] = {
    "ours": Ours,
    "lower bound": LowerBound,
    "user's loop": UsersSteps,
    "batches": PreparedBatches,
    "matmul": MatrixProduct,
}


def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("case", type=Case.from_json, help="the fields of a Case, as JSON")
    case = arguments_parser.parse_args(arguments).case
    if case.kind not in KINDS:
        arguments_parser.error(f"unknown kind {case.kind}: choose one of {', '.join(KINDS)}")

    answers = own_output()
    synthetic.TRAIN = 50_000
    synthetic.TEST = 10_000

    try:
        work = KINDS[case.kind](case)
        processes = Processes(work.hardware.device.type)
        work.hardware.forget_peak_memory()
        for _ in range(case.warmup):
            work.step()
        facts = work.facts()
    except (UserError, ModuleNotFoundError) as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        sys.exit(1)

    serve(work, processes, answers, facts)


def own_output() -> TextIO:
    """Return a stream to standard output for the answers, and discard everything else that is printed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return answers


def serve(work: Work, processes: Processes, answers: TextIO, facts: dict[str, Any]) -> None:
    """Report the facts and the time of one step, then carry out each line of standard input and answer it."""

    def send(**values: Any) -> None:
        if processes.is_main_process:
            print(json.dumps(values), file=answers, flush=True)

    send(**facts, **work.timed(work.step, 1), threads=torch.get_num_threads(), torch=torch.__version__)
    while command := processes.broadcast_object(sys.stdin.readline() if processes.is_main_process else None).strip():
        if command == "evaluate":
            work.evaluate()  # warms up
            send(**work.timed(work.evaluate, 1))
        else:
            send(**work.timed(work.step, int(command)))


if __name__ == "__main__":
    main(sys.argv[1:])
