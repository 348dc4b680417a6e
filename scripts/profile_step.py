"""Profile a training step: where its time goes, or how many operations a GPU has to launch for it.

python scripts/profile_step.py --model wrn16_8 --optimizer sam
python scripts/profile_step.py --launches resnet20,wrn16_8,pyramidnet110

The steps are those of a training run on generated images, after a warm-up. The first form prints seconds per step,
launches per step, the share of convolutions and the longest kernels. On the CPU it prints torch's operations instead of
kernels. The second form prints, for each network, how many operations a step consists of in eager mode on the CPU,
without those that compute nothing. A GPU in eager mode launches about as many kernels, but may need several for one
operation.
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

from sam_bench.cli.arguments import at_least, errors_as_messages, name_of, names_of, parser
from sam_bench.cli.conf_folder import choices
from sam_bench.data import synthetic
from sam_bench.errors import ResourceError
from sam_bench.optim.registry import METHODS
from scripts.benchmark.case import Ours
from scripts.benchmark.records import Case
from scripts.markdown import row, table

#: Warm-up steps of each kind; on CUDA, enough for a captured step to be replayed.
WARMUP = {"cuda": 10, "cpu": 2}
#: Number of characters of a kernel's name that are shown.
LONGEST = 90
#: Number of operations outside the passes and the batch that are listed by name.
MOST = 8
CONVOLUTION = re.compile("conv|fprop|dgrad|wgrad|winograd|implicit_gemm")
#: Compiled kernels of the operations around a convolution; their names mention the convolution too.
FUSED = re.compile("triton_(?!tem)|cpp_fused")
#: Operations that return a new tensor but compute nothing.
ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


class Launches(TorchDispatchMode):
    """A context in which each call of a torch operation that computes something is counted.

    Operations that only allocate, view or describe memory are not counted. An operation on a list of tensors counts
    once.

    Args:
        counter: calls by the operation's name; counted on in place.
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
    """Do the work, and return how often it called each operation."""
    counter: Counter[str] = Counter()
    with Launches(counter):
        work()
    return counter


@dataclass(frozen=True)
class StepLaunches:
    """Counts of the operations of several steps.

    Args:
        whole: all operations.
        passes: those of the forward and backward passes.
        batches: those that prepare the batches.
    """

    whole: Counter[str]
    passes: Counter[str]
    batches: Counter[str]

    @property
    def rest(self) -> Counter[str]:
        """Operations of the method, the base optimizer and the running totals."""
        return self.whole - self.passes - self.batches

    def numbers(self, steps: int) -> list[str]:
        """Return the launches per step: in total, of the passes, of the batch, of the rest."""
        return [f"{counter.total() / steps:,.0f}" for counter in (self.whole, self.passes, self.batches, self.rest)]

    def described(self, steps: int) -> str:
        """Return the launches per step as text, with the most frequent operations of the rest by name."""
        whole, passes, batch, rest = self.numbers(steps)
        names = ", ".join(f"{name} {calls / steps:.4g}" for name, calls in self.rest.most_common(MOST))
        return f"{whole} (passes {passes}, the batch {batch}, the rest {rest}: {names}, …)"


def count(ours: Ours, steps: int) -> StepLaunches:
    """Take this number of steps, and count what they launch."""
    optimizer = ours.training.optimizer
    original_step = optimizer.step
    passes: Counter[str] = Counter()

    def counting(closure: Callable[..., Any]) -> Callable[..., Any]:
        def counted_closure(*arguments: Any) -> Any:
            with Launches(passes):
                return closure(*arguments)

        return counted_closure

    def counting_step(closure: Any, *arguments: Any, **options: Any) -> Any:
        closures = counting(closure) if callable(closure) else [counting(part) for part in closure]
        return original_step(closures, *arguments, **options)

    optimizer.step = counting_step
    whole = launches(lambda: [ours.step() for _ in range(steps)])
    optimizer.step = original_step
    batches = ours.training.train.epoch(0)
    next(batches)  # the first one also draws the random numbers of the whole epoch
    return StepLaunches(whole, passes, launches(lambda: [next(batches) for _ in range(steps)]))


def warm(case: Case) -> Ours:
    """Return a training run after its warm-up."""
    synthetic.TRAIN = max(100 * case.batch_size, 5_000)
    synthetic.TEST = 1_000
    ours = Ours(case)
    for _ in range(case.period * WARMUP[ours.hardware.device.type]):
        ours.step()
    return ours


def kernels(ours: Ours, steps: int) -> list[tuple[str, int, float]]:
    """Return name, calls and seconds of what this number of steps ran, the longest first.

    On CUDA these are kernels, on the CPU torch's operations.

    Raises:
        ResourceError: the profiler recorded nothing.
    """
    on_cuda = ours.hardware.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]) as profiler:
        for _ in range(steps):
            ours.step()
        ours.hardware.synchronize()
    kernel_times = of_device(profiler) if on_cuda else of_host(profiler)
    if not kernel_times:
        raise ResourceError("torch's profiler recorded nothing on this device")
    return sorted(kernel_times, key=lambda kernel: -kernel[2])


def of_device(profiler: profile) -> list[tuple[str, int, float]]:
    """Return name, calls and seconds of what the device ran: kernels, memory copies and memory sets."""
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
    """Return name, calls and seconds of torch's operations, each without the time of those that it calls."""
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    return [(event.key, event.count, event.self_cpu_time_total / 1e6) for event in events]


def is_convolution(name: str) -> bool:
    """Return True if this is the name of a kernel or an operation of a convolution, forward or backward."""
    return bool(CONVOLUTION.search(name)) and not FUSED.search(name)


def show_profile(case: Case, steps: int, top: int) -> None:
    """Print where the time of a step goes.

    Args:
        steps: number of steps to profile; rounded up to whole periods of the method.
        top: number of kernels to show.
    """
    ours = warm(case)
    steps = case.period * math.ceil(steps / case.period)
    seconds = ours.timed(ours.step, steps)["seconds"]
    kernel_times = kernels(ours, steps)
    total = sum(spent for _, _, spent in kernel_times)
    convolutions = sum(spent for name, _, spent in kernel_times if is_convolution(name)) / total

    kind = "kernel"
    launches_line = f"launches a step: {sum(calls for _, calls, _ in kernel_times) / steps:,.0f}"
    if ours.hardware.device.type != "cuda":
        kind = "operation"
        launches_line = f"launches a step, taken one by one: {count(ours, steps).described(steps)}"

    print(f"{case.model}, {case.method}, batches of {case.batch_size}, {ours.facts()['engine']}, "
          f"{ours.hardware.precision}, {ours.hardware.name}; {steps} steps\n\na step: {1000 * seconds:.4g} ms\n"
          f"{launches_line}\n{kind}s: {1000 * total / steps:.4g} ms a step while they are profiled, "
          f"convolutions {convolutions:.1%} of it\n")  # fmt: skip
    rows = [
        (name[:LONGEST], f"{calls / steps:.4g}", f"{1000 * spent / steps:.4g}", f"{spent / total:.1%}")
        for name, calls, spent in kernel_times[:top]
    ]
    print(*table((kind, "calls a step", "ms a step", "share"), rows), sep="\n")


def show_launches(case: Case, models: list[str]) -> None:
    """Print how many operations a step of each network consists of, as a table."""
    print(f"Operations a step, {case.method}, {case.precision}\n")
    print(*table(("network", "whole step", "its passes", "the batch", "the rest")), sep="\n")
    for model in models:
        ours = warm(dataclasses.replace(case, model=model))
        print(row(model, *count(ours, case.period).numbers(case.period)), flush=True)


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    add = arguments_parser.add_argument
    add("--model", default="wrn16_8", type=name_of(choices("model"), "model"), help="network")
    add("--optimizer", default="sam", type=name_of(METHODS, "optimizer"), help="method")
    add("--engine", default="auto", choices=("auto", "eager", "compile", "graph"))
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    add("--batch-size", default=128, type=at_least(1), help="images a step")
    add("--steps", default=3, type=at_least(1), help="steps to profile, or a few more")
    add("--top", default=15, type=at_least(1), help="number of kernels to show")
    counted_networks = names_of(choices("model"), "launches")
    add("--launches", type=counted_networks, help="only count the operations of these networks")
    options = arguments_parser.parse_args(arguments)

    engine, device, precision, size = options.engine, options.device, options.precision, options.batch_size
    if options.launches:
        # Counting needs eager steps; it does not depend on the batch size, so a small one is enough.
        engine, device, precision, size = "eager", "cpu", precision.replace("auto", "bf16"), 2
    case = Case("ours", options.model, options.optimizer, engine, device, precision, size)
    if options.launches:
        show_launches(case, options.launches)
    else:
        show_profile(case, options.steps, options.top)


if __name__ == "__main__":
    main(sys.argv[1:])
