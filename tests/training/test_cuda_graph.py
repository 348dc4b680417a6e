"""Tests of captured steps, against the same steps taken one by one."""

import gc
import logging
import sys
import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench.data.batches import Batch
from sam_bench.models.registry import model as build_model
from sam_bench.optim.registry import METHODS, method
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.cuda_graph import CudaGraphs
from sam_bench.training.step import WARMUP_STEPS, CapturedStep, Step
from tests.conftest import differences
from tests.optim.problem import ARGUMENTS
from tests.training.stand_in import install
from tests.training.tape import Tape, name_of

CAPTURED = [name for name, entry in METHODS.items() if not entry.why_not_captured]


class Momentum(torch.optim.Optimizer):
    """SGD with momentum, neither fused nor with counters on the host."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "momentum": 0.9})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                p.sub_(buffer * group["lr"])


BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True),
    "not fused": Momentum,
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
}
OPTIONS = {"looksam": {"k": 3}, "sam_every_k": {"k": 2}}
MESSAGES = logging.getLogger("sam_bench")

#: Every fourth batch is smaller.
STEPS = 4 * 4


class SmallNetwork(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 10)
        )


def train(
    step_class,
    name,
    base="sgd",
    steps=STEPS,
    network=SmallNetwork,
    hardware=None,
    bad=(),
    m=None,
    noisy_and_mixed=False,
    start=0,
    **options,
):
    """Train a few steps, each at another rate; return the state, the step and the warnings.

    Args:
        bad: numbers of the steps whose images are NaN.
        noisy_and_mixed: batches have true labels and mixup.
    """
    torch.manual_seed(0)
    hardware = hardware or Hardware(torch.device("cpu"), "fp32")
    model = network().to(hardware.device).train()
    optimizer = method(name)(
        model.named_parameters(),
        BASES[base](model.named_parameters()),
        model=model,
        start=start,
        **OPTIONS.get(name, {}) | ARGUMENTS.get(name, {}),
    )
    scaler = hardware.scaler()
    step = step_class(model, optimizer, hardware, Processes("cpu"), 0.1, m, scaler=scaler, **options)
    warnings = WarningRecorder()

    for t in range(steps):
        step.set_rates(0.1 / (t + 1), 0.5 / (t + 2) if METHODS[name].perturbs else None)
        generator = torch.Generator().manual_seed(t)
        count = 5 if t % 4 == 3 else 8
        images = torch.randn(count, 3, 32, 32, generator=generator) * (float("nan") if t in bad else 1)
        labels, true_labels = torch.randint(0, 10, (2, count), generator=generator).to(hardware.device)
        mixture = labels.roll(1), torch.full((count,), 1 - t / 20, device=hardware.device)
        step(Batch(images.to(hardware.device), labels, *((true_labels, *mixture) if noisy_and_mixed else ())))

    MESSAGES.removeHandler(warnings)
    state = {"step": step.state_dict(), "optimizer": optimizer.state_dict(), "model": model.state_dict()}
    state["scaler"] = scaler.state_dict() if scaler else None
    return state, step, warnings.texts


class WarningRecorder(logging.Handler):
    """Handler that keeps the texts of warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []
        MESSAGES.addHandler(self)

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.mark.parametrize(
    ("name", "base"),
    [
        *((name, "sgd") for name in CAPTURED),
        *((name, base) for name in ("sam", "wsam") for base in ("not fused", "adamw")),
    ],
)
def test_replay_equals_eager_bit_for_bit(name, base):
    eager, _, _ = train(Step, name, base, rates_on_device=True)
    captured, step, warnings = train(CapturedStep, name, base, capturer=Tape())
    assert warnings == [] and step.engine == "graph"
    assert {size for size, _ in step.captured} >= {8}
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", [name for name in CAPTURED if METHODS[name].two_passes])
def test_replay_of_late_start_equals_eager(name):
    eager, _, _ = train(Step, name, steps=2 * STEPS, start=STEPS - 2, rates_on_device=True)
    captured, step, warnings = train(CapturedStep, name, steps=2 * STEPS, start=STEPS - 2, capturer=Tape())
    assert warnings == [] and {(8, False), (8, True)} <= step.captured.keys()
    assert differences(captured, eager) == []


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_replay_on_noisy_mixed_labels_equals_eager(name, m):
    eager, step, _ = train(Step, name, m=m, noisy_and_mixed=True, rates_on_device=True)
    captured, replayed, warnings = train(CapturedStep, name, m=m, noisy_and_mixed=True, capturer=Tape())
    assert warnings == [] and replayed.captured
    assert differences(captured, eager) == []

    errors = step.read()
    assert {"right_label_error", "wrong_label_error", "wrong_label_true_error"} < set(errors)
    assert replayed.read() == errors


@pytest.mark.parametrize("bad", [(0,), (0, 1, 2, 3), (9,), (10, 12)], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sam", "wsam", "vasso", "looksam"])
def test_replay_skips_non_finite_batches(name, bad):
    eager, _, _ = train(Step, name, bad=bad, rates_on_device=True)
    captured, step, warnings = train(CapturedStep, name, bad=bad, capturer=Tape())
    assert warnings == [] and step.captured
    assert captured["optimizer"]["sharpness_aware"]["skipped"] == len(bad)
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", ["sgd", "sam", "gsam"])
def test_replay_with_loss_scaling_equals_eager(name):
    hardware = Hardware(torch.device("cpu"), "fp16")
    eager, _, _ = train(Step, name, hardware=hardware, rates_on_device=True, bad=(9,))
    captured, step, _ = train(CapturedStep, name, hardware=hardware, capturer=Tape(), bad=(9,))
    assert step.captured
    assert captured["scaler"]["scale"] < 65536
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_replay_of_parts_equals_eager(name):
    eager, _, _ = train(Step, name, m=3, rates_on_device=True)
    captured, step, _ = train(CapturedStep, name, m=3, capturer=Tape())
    assert step.captured
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CAPTURED])
def test_not_capturable_methods_cannot_be_replayed(name):
    eager, _, _ = train(Step, name, rates_on_device=True)
    captured, _, warnings = train(CapturedStep, name, capturer=Tape())
    if METHODS[name].cls.gradient_decides:
        assert "waits for the device, which cannot be captured" in warnings[0]
    else:
        assert differences(captured["model"], eager["model"]) != []


class FailingTape(Tape):
    """Capturer that fails at an operation: the second convolution, or the first of any other."""

    def __init__(self, failing_operation: str):
        self.failing_operation = failing_operation

    def capture(self, work):
        failing_operation = self.failing_operation
        fails = iter((False, True) if failing_operation == "aten.convolution" else (True,))

        class FailingMode(TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, arguments=(), options=None):
                if name_of(operation) == failing_operation and next(fails, False):
                    raise RuntimeError("this cannot be captured\nand more")
                return operation(*arguments, **(options or {}))

        with FailingMode():
            work()


def test_failed_capture_leaves_generator_usable(monkeypatch):
    install(monkeypatch, lambda name, before: name == "aten.mul")
    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs(torch.device("cpu")).capture(lambda: torch.ones(1) * 2)
    assert not torch.cuda.default_generators[0].in_capture


class ErrorRecordingNetwork(SmallNetwork):
    """Network that records, in each pass, the error being handled, whose frames keep the failed step's tensors."""

    errors: ClassVar[list[object]] = []

    def forward(self, x):
        self.errors.append(sys.exc_info()[1])
        return super().forward(x)


def test_failed_capture_is_freed(monkeypatch):
    monkeypatch.setattr(ErrorRecordingNetwork, "errors", [])
    capturer = FailingTape("aten._fused_sgd_")
    _, _, warnings = train(CapturedStep, "sam", network=ErrorRecordingNetwork, capturer=capturer)
    assert len(warnings) == 1
    assert len(ErrorRecordingNetwork.errors) > 2 * STEPS
    assert set(ErrorRecordingNetwork.errors) == {None}


@pytest.mark.parametrize("at", ["aten.convolution", "aten._fused_sgd_"], ids=["second pass", "base's step"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_failed_capture_continues_eagerly(name, precision, at):
    hardware = Hardware(torch.device("cpu"), precision)
    eager, _, _ = train(Step, name, hardware=hardware, rates_on_device=True)
    refused, step, warnings = train(CapturedStep, name, hardware=hardware, capturer=FailingTape(at))
    assert step.engine == "eager"
    (warning,) = warnings
    assert warning.endswith("RuntimeError: this cannot be captured")  # only the error's first line
    assert differences(refused, eager) == []


# With the stand-in for CUDA, which computes nothing during a capture


@pytest.mark.parametrize("name", CAPTURED)
def test_replay_after_empty_capture_equals_eager(monkeypatch, name):
    eager, _, _ = train(Step, name, rates_on_device=True)
    install(monkeypatch)
    captured, step, warnings = train(CapturedStep, name)
    assert warnings == [] and step.captured
    assert differences(captured, eager) == []


#: Operations of a step of two passes, and how many of their kind come before.
VIOLATIONS = {
    "first pass": ("aten.convolution", 0),
    "perturbation": ("aten._foreach_add_", 0),
    "second pass": ("aten.convolution", 1),
    "second backward": ("aten.convolution_backward", 1),
    "base's step": ("aten._fused_sgd_", 0),
}


@pytest.mark.parametrize("where", VIOLATIONS)
@pytest.mark.parametrize(("name", "precision"), [("sam", "fp32"), ("vasso", "fp32"), ("wsam", "fp16")])
def test_violation_in_capture_continues_eagerly(monkeypatch, name, precision, where):
    operation, earlier = VIOLATIONS[where]
    hardware = Hardware(torch.device("cpu"), precision)
    eager, _, _ = train(Step, name, hardware=hardware, rates_on_device=True)
    install(monkeypatch, lambda name, before: (name, before) == (operation, earlier))
    broken, step, warnings = train(CapturedStep, name, hardware=hardware)

    assert step.engine == "eager"
    (warning,) = warnings
    assert f"{operation} is not permitted when a stream is capturing" in warning
    assert differences(broken, eager) == []


def test_capture_collects_no_garbage(monkeypatch):
    class Cycle:
        def __init__(self):
            self.self = self

    install(monkeypatch)
    cycle, enabled = weakref.ref(Cycle()), []

    def work():
        enabled.append(gc.isenabled())
        assert cycle() is None  # collected before the capture

    CudaGraphs(torch.device("cpu")).capture(work)
    with pytest.raises(ZeroDivisionError):
        CudaGraphs(torch.device("cpu")).capture(lambda: enabled.append(gc.isenabled()) or 1 / 0)

    assert enabled == [False, False]
    assert gc.isenabled()


def test_each_kind_of_step_is_captured_after_warmup():
    few, many = (train(CapturedStep, "sam_every_k", capturer=Tape(), steps=n)[1] for n in (4 * WARMUP_STEPS, STEPS))
    assert set(few.captured) == {(8, True)}
    assert set(many.captured) == {(8, True), (8, False), (5, False)}


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("name", "compiled"),
    [*((name, False) for name in CAPTURED), *((name, True) for name in ("sgd", "gsam", "looksam"))],
)
def test_replay_on_gpu_equals_eager_bit_for_bit(request, name, compiled):
    hardware = Hardware(torch.device("cuda"), "bf16")
    hardware.configure(deterministic=True)
    request.addfinalizer(lambda: hardware.configure(deterministic=False))

    network = lambda: build_model("resnet", classes=10, depth=8).to(memory_format=torch.channels_last)  # noqa: E731
    options = {"steps": 100, "network": network, "hardware": hardware, "compiled": compiled}
    eager, _, _ = train(Step, name, rates_on_device=True, **options)
    captured, step, warnings = train(CapturedStep, name, **options)
    assert warnings == [] and step.engine == "graph"
    assert differences(captured, eager) == []
