"""Where the time of a training step goes, and how much a GPU is asked to launch for it.

python scripts/profile_step.py --model wrn16_8 --optimizer sam
python scripts/profile_step.py --launches resnet20,wrn16_8,pyramidnet110

Steps are those of a run on generated images, warm: the first form prints seconds a step, launches a step, the share of
convolutions and the kernels that take longest, on CUDA as the device ran them, on the CPU torch's operations in their
place. The second prints, for each network, how many operations that compute something a step consists of when it is
taken one by one on the CPU: about what a GPU has to launch then, but that one operation may be several kernels there.
"""

import dataclasses
import json
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench.cli.compose import choices
from sam_bench.data import synthetic
from sam_bench.errors import ResourceError
from sam_bench.optim.registry import METHODS
from scripts.arguments import at_least, errors_as_messages, name_of, names_of, parser
from scripts.benchmark.case import Ours
from scripts.benchmark.records import Case
from scripts.markdown import row, table

WARMUP = {"cuda": 10, "cpu": 2}
"""Steps of each kind; on CUDA a captured one is replayed by then."""
LONGEST = 90
"""Letters of a kernel's name that are shown."""
MOST = 8
"""Operations of the rest that are named."""
CONVOLUTION = re.compile("conv|fprop|dgrad|wgrad|winograd|implicit_gemm")
FUSED = re.compile("triton_(?!tem)|cpp_fused")
"""Kernels that were compiled for what is around convolutions, and are named after these too."""
ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
"""Operations that return a tensor and compute nothing, besides those that return views."""


class Launches(TorchDispatchMode):
    """Counts, while it is entered, how often each of torch's operations that compute something is called.

    What only reserves, views or describes memory does not count; an operation on a list of tensors counts once.
    """

    def __init__(self, counter: Counter[str]):
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        schema = operation._schema
        name = operation.overloadpacket.__name__
        makes = any(returned.alias_info is None and "Tensor" in str(returned.type) for returned in schema.returns)
        writes = schema.is_mutable and torch.Tag.inplace_view not in operation.tags
        if (makes or writes) and name not in ALLOCATES:
            self.counter[name] += 1
        return operation(*arguments, **(options or {}))


def launches(work: Callable[[], Any]) -> Counter[str]:
    """Do the work, and return how often it called which operation."""
    counter: Counter[str] = Counter()
    with Launches(counter):
        work()
    return counter


@dataclass(frozen=True)
class StepLaunches:
    """The operations of some steps: all of them, those of forward and backward passes, those that make the batches."""

    whole: Counter[str]
    passes: Counter[str]
    batches: Counter[str]

    @property
    def rest(self) -> Counter[str]:
        """Those of the method, the base optimizer and the totals."""
        return self.whole - self.passes - self.batches

    def numbers(self, steps: int) -> list[str]:
        """Return the launches a step: all, of the passes, of the batch, of the rest."""
        return [f"{each.total() / steps:,.0f}" for each in (self.whole, self.passes, self.batches, self.rest)]

    def described(self, steps: int) -> str:
        """Return the numbers a step, with the operations of the rest by name."""
        whole, passes, batch, rest = self.numbers(steps)
        names = ", ".join(f"{name} {calls / steps:.4g}" for name, calls in self.rest.most_common(MOST))
        return f"{whole} (passes {passes}, the batch {batch}, the rest {rest}: {names}, …)"


def count(ours: Ours, steps: int) -> StepLaunches:
    """Take as many steps, and count what they launch."""
    optimizer = ours.training.optimizer
    take = optimizer.step
    passes: Counter[str] = Counter()

    def counted(closure: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with Launches(passes):
                return closure(*arguments)

        return call

    def step(closure: Any, *arguments: Any, **options: Any) -> Any:
        closures = counted(closure) if callable(closure) else [counted(each) for each in closure]
        return take(closures, *arguments, **options)

    optimizer.step = step
    whole = launches(lambda: [ours.step() for _ in range(steps)])
    optimizer.step = take
    batches = ours.training.train.epoch(0)
    next(batches)  # draws for the whole epoch
    return StepLaunches(whole, passes, launches(lambda: [next(batches) for _ in range(steps)]))


def warm(case: Case) -> Ours:
    """Return a run that takes steps as it will go on to do."""
    synthetic.TRAIN = max(100 * case.batch_size, 5_000)
    synthetic.TEST = 1_000
    ours = Ours(case)
    for _ in range(case.period * WARMUP[ours.hardware.device.type]):
        ours.step()
    return ours


def kernels(ours: Ours, steps: int) -> list[tuple[str, int, float]]:
    """Name, calls and seconds of what as many steps ran, the longest first: CUDA's kernels, or torch's operations.

    Raises:
        ResourceError: the device cannot be profiled.
    """
    on_cuda = ours.hardware.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]) as profiler:
        for _ in range(steps):
            ours.step()
        ours.hardware.synchronize()
    found = of_device(profiler) if on_cuda else of_host(profiler)
    if not found:
        raise ResourceError("torch's profiler saw nothing of what the device did")
    return sorted(found, key=lambda kernel: -kernel[2])


def of_device(profiler: profile) -> list[tuple[str, int, float]]:
    """What the device ran, by name: kernels, copies and fillings of memory."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    calls: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            calls[event["name"]] += 1
            seconds[event["name"]] += event["dur"] / 1e6
    return [(name, calls[name], seconds[name]) for name in calls]


def of_host(profiler: profile) -> list[tuple[str, int, float]]:
    """Torch's operations, each without those that it calls."""
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    return [(event.key, event.count, event.self_cpu_time_total / 1e6) for event in events]


def is_convolution(name: str) -> bool:
    """Whether a kernel or an operation is one, forward or backward."""
    return bool(CONVOLUTION.search(name)) and not FUSED.search(name)


def show_profile(case: Case, steps: int, top: int) -> None:
    """Print where the time of a step goes: at least so many steps are profiled, and the top kernels shown."""
    ours = warm(case)
    steps = case.period * math.ceil(steps / case.period)
    seconds = ours.timed(ours.step, steps)["seconds"]
    found = kernels(ours, steps)
    total = sum(spent for _, _, spent in found)
    convolutions = sum(spent for name, _, spent in found if is_convolution(name)) / total
    kind = "kernel"
    launched = f"launches a step: {sum(calls for _, calls, _ in found) / steps:,.0f}"
    if ours.hardware.device.type != "cuda":
        kind = "operation"
        launched = f"launches a step, taken one by one: {count(ours, steps).described(steps)}"
    print(f"{case.model}, {case.method}, batches of {case.batch_size}, {ours.facts()['engine']}, "
          f"{ours.hardware.precision}, {ours.hardware.name}; {steps} steps\n\na step: {1000 * seconds:.4g} ms\n"
          f"{launched}\n{kind}s: {1000 * total / steps:.4g} ms a step while they are profiled, "
          f"convolutions {convolutions:.1%} of it\n")  # fmt: skip
    rows = [
        (name[:LONGEST], f"{calls / steps:.4g}", f"{1000 * spent / steps:.4g}", f"{spent / total:.1%}")
        for name, calls, spent in found[:top]
    ]
    print(*table((kind, "calls a step", "ms a step", "share"), rows), sep="\n")


def show_launches(case: Case, models: list[str]) -> None:
    """Print how many operations a step of each network consists of."""
    print(f"Operations a step, {case.method}, {case.precision}\n")
    print(*table(("network", "whole step", "its passes", "the batch", "the rest")), sep="\n")
    for model in models:
        ours = warm(dataclasses.replace(case, model=model))
        print(row(model, *count(ours, case.period).numbers(case.period)), flush=True)


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    add = words.add_argument
    add("--model", default="wrn16_8", type=name_of(choices("model"), "model"), help="network")
    add("--optimizer", default="sam", type=name_of(METHODS, "optimizer"), help="method")
    add("--engine", default="auto", choices=("auto", "eager", "compile", "graph"))
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    add("--batch-size", default=128, type=at_least(1), help="images a step")
    add("--steps", default=3, type=at_least(1), help="that are profiled, or a few more")
    add("--top", default=15, type=at_least(1), help="kernels that are shown")
    launched = names_of(choices("model"), "launches")
    add("--launches", type=launched, help="networks whose operations are counted, no more")
    options = words.parse_args(arguments)
    engine, device, precision, size = options.engine, options.device, options.precision, options.batch_size
    if options.launches:
        engine, device, precision, size = "eager", "cpu", precision.replace("auto", "bf16"), 2
    case = Case("ours", options.model, options.optimizer, engine, device, precision, size)
    if options.launches:
        show_launches(case, options.launches)
    else:
        show_profile(case, options.steps, options.top)


if __name__ == "__main__":
    main(sys.argv[1:])
