"""A captured step against the same steps taken one by one."""

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

CAPTURED = [name for name, entry in METHODS.items() if not entry.not_capturable]


class Momentum(torch.optim.Optimizer):
    """Neither fused nor with counters on the host."""

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
STEPS = 4 * 4
"""Every fourth batch is a smaller one."""


class SmallNetwork(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 10)
        )


def trained(
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
    """Everything that a few steps leave behind, with rates that change in every one of them."""
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
    said = Said()
    for t in range(steps):
        generator = torch.Generator().manual_seed(t)
        count = 5 if t % 4 == 3 else 8
        images = torch.randn(count, 3, 32, 32, generator=generator) * (float("nan") if t in bad else 1)
        step.set_rates(0.1 / (t + 1), 0.5 / (t + 2) if METHODS[name].perturbs else None)
        labels, true_labels = torch.randint(0, 10, (2, count), generator=generator).to(hardware.device)
        mixture = labels.roll(1), torch.full((count,), 1 - t / 20, device=hardware.device)
        step(Batch(images.to(hardware.device), labels, *((true_labels, *mixture) if noisy_and_mixed else ())))
    state = {"step": step.state_dict(), "optimizer": optimizer.state_dict(), "model": model.state_dict()}
    state["scaler"] = scaler.state_dict() if scaler else None
    MESSAGES.removeHandler(said)
    return state, step, said.texts


class Said(logging.Handler):
    """The warnings while it is there."""

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
def test_replayed_steps_give_the_bits_of_those_taken_one_by_one(name, base):
    eager, _, _ = trained(Step, name, base, rates_on_device=True)
    captured, step, said = trained(CapturedStep, name, base, capturer=Tape())
    assert said == [] and step.engine == "graph"
    assert {size for size, _ in step.captured} >= {8}
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", [name for name in CAPTURED if METHODS[name].has_second_pass])
def test_steps_of_the_base_alone_and_of_the_method_are_replayed_each_from_its_own_graph(name):
    eager, _, _ = trained(Step, name, steps=2 * STEPS, start=STEPS - 2, rates_on_device=True)
    captured, step, said = trained(CapturedStep, name, steps=2 * STEPS, start=STEPS - 2, capturer=Tape())
    assert said == [] and {(8, False), (8, True)} <= step.captured.keys()
    assert differences(captured, eager) == []


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_replayed_steps_on_noisy_labels_with_mixup_are_those_taken_one_by_one(name, m):
    eager, step, _ = trained(Step, name, m=m, noisy_and_mixed=True, rates_on_device=True)
    captured, replayed, said = trained(CapturedStep, name, m=m, noisy_and_mixed=True, capturer=Tape())
    assert said == [] and replayed.captured
    assert differences(captured, eager) == []
    errors = step.read()
    assert {"right_label_error", "wrong_label_error", "wrong_label_true_error"} < set(errors)
    assert replayed.read() == errors


@pytest.mark.parametrize("bad", [(0,), (0, 1, 2, 3), (9,), (10, 12)], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sam", "wsam", "vasso", "looksam"])
def test_a_replay_skips_what_is_not_finite(name, bad):
    eager, _, _ = trained(Step, name, bad=bad, rates_on_device=True)
    captured, step, said = trained(CapturedStep, name, bad=bad, capturer=Tape())
    assert said == [] and step.captured
    assert captured["optimizer"]["sharpness_aware"]["skipped"] == len(bad)
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", ["sgd", "sam", "gsam"])
def test_loss_scaling_is_replayed(name):
    hardware = Hardware(torch.device("cpu"), "fp16")
    eager, _, _ = trained(Step, name, hardware=hardware, rates_on_device=True, bad=(9,))
    captured, step, _ = trained(CapturedStep, name, hardware=hardware, capturer=Tape(), bad=(9,))
    assert step.captured
    assert captured["scaler"]["scale"] < 65536
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_parts_with_perturbations_of_their_own_are_replayed(name):
    eager, _, _ = trained(Step, name, m=3, rates_on_device=True)
    captured, step, _ = trained(CapturedStep, name, m=3, capturer=Tape())
    assert step.captured
    assert differences(captured, eager) == []


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CAPTURED])
def test_the_others_could_not_be_replayed(name):
    eager, _, _ = trained(Step, name, rates_on_device=True)
    captured, _, said = trained(CapturedStep, name, capturer=Tape())
    if METHODS[name].gradient_decides:
        assert "waits for the device, which cannot be captured" in said[0]
    else:
        assert differences(captured["model"], eager["model"]) != []


class Refusing(Tape):
    """Fails in the midst of what it is to record."""

    def __init__(self, at: str):
        self.at = at

    def capture(self, work):
        at, calls = self.at, iter((False, True) if self.at == "aten.convolution" else (True,))  # in the second pass

        class Breaking(TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, arguments=(), options=None):
                if name_of(operation) == at and next(calls, False):
                    raise RuntimeError("this cannot be captured\nand more")
                return operation(*arguments, **(options or {}))

        with Breaking():
            work()


def test_after_a_broken_capture_random_numbers_are_drawn_again(monkeypatch):
    install(monkeypatch, lambda name, before: name == "aten.mul")
    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs(torch.device("cpu")).capture(lambda: torch.ones(1) * 2)
    assert not torch.cuda.default_generators[0].in_capture


class Watching(SmallNetwork):
    """Notes, in each pass, which error is being handled: its frames hold what the failed step has computed."""

    handled: ClassVar[list[object]] = []

    def forward(self, x):
        self.handled.append(sys.exc_info()[1])
        return super().forward(x)


def test_after_a_failed_capture_nothing_of_it_is_kept(monkeypatch):
    monkeypatch.setattr(Watching, "handled", [])
    _, _, said = trained(CapturedStep, "sam", network=Watching, capturer=Refusing("aten._fused_sgd_"))
    assert len(said) == 1
    assert len(Watching.handled) > 2 * STEPS
    assert set(Watching.handled) == {None}


@pytest.mark.parametrize("at", ["aten.convolution", "aten._fused_sgd_"], ids=["second pass", "base's step"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_where_capture_fails_steps_go_on_one_by_one_and_it_is_said(name, precision, at):
    hardware = Hardware(torch.device("cpu"), precision)
    eager, _, _ = trained(Step, name, hardware=hardware, rates_on_device=True)
    refused, step, said = trained(CapturedStep, name, hardware=hardware, capturer=Refusing(at))
    assert step.engine == "eager"
    assert said == [
        "a step could not be captured, so steps are taken one by one, slower: RuntimeError: this cannot be captured"
    ]
    assert differences(refused, eager) == []


# What CUDA does, as far as a CPU can show it


@pytest.mark.parametrize("name", CAPTURED)
def test_nothing_is_computed_during_a_capture_and_a_replay_computes_it(monkeypatch, name):
    eager, _, _ = trained(Step, name, rates_on_device=True)
    install(monkeypatch)
    captured, step, said = trained(CapturedStep, name)
    assert said == [] and step.captured
    assert differences(captured, eager) == []


VIOLATIONS = {
    "first pass": ("aten.convolution", 0),
    "perturbation": ("aten._foreach_add_", 0),
    "second pass": ("aten.convolution", 1),
    "second backward": ("aten.convolution_backward", 1),
    "base's step": ("aten._fused_sgd_", 0),
}
"""An operation, and how many of its kind come before it in a step of two passes."""


@pytest.mark.parametrize("where", VIOLATIONS)
@pytest.mark.parametrize(("name", "precision"), [("sam", "fp32"), ("vasso", "fp32"), ("wsam", "fp16")])
def test_after_a_broken_capture_the_step_is_taken_as_if_there_had_been_none(monkeypatch, name, precision, where):
    operation, place = VIOLATIONS[where]
    hardware = Hardware(torch.device("cpu"), precision)
    eager, _, _ = trained(Step, name, hardware=hardware, rates_on_device=True)
    install(monkeypatch, lambda name, before: (name, before) == (operation, place))
    broken, step, said = trained(CapturedStep, name, hardware=hardware)
    assert step.engine == "eager"
    assert said == [
        "a step could not be captured, so steps are taken one by one, slower: RuntimeError: CUDA error: "
        f"{operation} is not permitted when a stream is capturing"
    ]
    assert differences(broken, eager) == []


def test_no_garbage_is_collected_during_a_capture(monkeypatch):
    class Cycle:
        def __init__(self):
            self.self = self

    install(monkeypatch)
    alive, enabled = weakref.ref(Cycle()), []

    def work():
        enabled.append(gc.isenabled())
        assert alive() is None

    CudaGraphs(torch.device("cpu")).capture(work)
    with pytest.raises(ZeroDivisionError):
        CudaGraphs(torch.device("cpu")).capture(lambda: enabled.append(gc.isenabled()) or 1 / 0)
    assert enabled == [False, False]
    assert gc.isenabled()


def test_a_kind_of_step_is_captured_after_its_warmup():
    few, many = (trained(CapturedStep, "sam_every_k", capturer=Tape(), steps=n)[1] for n in (4 * WARMUP_STEPS, STEPS))
    assert set(few.captured) == {(8, True)}
    assert set(many.captured) == {(8, True), (8, False), (5, False)}


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("name", "compiled"),
    [*((name, False) for name in CAPTURED), *((name, True) for name in ("sgd", "gsam", "looksam"))],
)
def test_on_a_gpu_a_hundred_replays_give_the_same_bits(request, name, compiled):
    hardware = Hardware(torch.device("cuda"), "bf16")
    hardware.configure(deterministic=True)
    request.addfinalizer(lambda: hardware.configure(deterministic=False))
    network = lambda: build_model("resnet", classes=10, depth=8).to(memory_format=torch.channels_last)  # noqa: E731
    options = {"steps": 100, "network": network, "hardware": hardware, "compiled": compiled}
    eager, _, _ = trained(Step, name, rates_on_device=True, **options)
    captured, step, said = trained(CapturedStep, name, **options)
    assert said == [] and step.engine == "graph"
    assert differences(captured, eager) == []
