"""Tests of captured steps, against the same steps taken one by one."""

import pytest
import torch

from sam_bench.models.registry import model as build_model
from sam_bench.optim.registry import METHODS
from sam_bench.runtime.device import Hardware
from sam_bench.training.step import WARMUP_STEPS, CapturedStep, Step
from tests.conftest import differences
from tests.training.small_training import CAPTURED, STEPS, train
from tests.training.stand_in import install
from tests.training.tape import Tape


def check_replay(name: str, **options) -> tuple[dict, CapturedStep, Step]:
    """Check that replayed steps equal eager ones bit for bit; return the state, the captured and the eager step."""
    expected, eager, _ = train(Step, name, rates_on_device=True, **options)
    state, captured, warnings = train(CapturedStep, name, capturer=Tape(), **options)
    assert warnings == []
    assert captured.engine == "graph" and captured.captured
    assert differences(state, expected) == []
    return state, captured, eager


@pytest.mark.parametrize(
    ("name", "base"),
    [
        *((name, "sgd") for name in CAPTURED),
        *((name, base) for name in ("sam", "wsam") for base in ("not fused", "adamw")),
    ],
)
def test_replay_equals_eager_bit_for_bit(name, base):
    _, step, _ = check_replay(name, base=base)
    assert {size for size, _ in step.captured} >= {8}


@pytest.mark.parametrize("name", [name for name in CAPTURED if METHODS[name].two_passes])
def test_replay_of_late_start_equals_eager(name):
    _, step, _ = check_replay(name, steps=2 * STEPS, start=STEPS - 2)
    assert {(8, False), (8, True)} <= step.captured.keys()


@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_replay_of_parts_equals_eager(name):
    check_replay(name, m=3)


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_replay_on_noisy_mixed_labels_equals_eager(name, m):
    _, captured, eager = check_replay(name, m=m, noisy_and_mixed=True)
    errors = eager.read()
    assert {"right_label_error", "wrong_label_error", "wrong_label_true_error"} < set(errors)
    assert captured.read() == errors


@pytest.mark.parametrize("nan_steps", [(0,), (0, 1, 2, 3), (9,), (10, 12)], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sam", "wsam", "vasso", "looksam"])
def test_replay_skips_non_finite_batches(name, nan_steps):
    state, _, _ = check_replay(name, nan_steps=nan_steps)
    assert state["optimizer"]["sharpness_aware"]["skipped"] == len(nan_steps)


@pytest.mark.parametrize("name", ["sgd", "sam", "gsam"])
def test_replay_with_loss_scaling_equals_eager(name):
    state, _, _ = check_replay(name, hardware=Hardware(torch.device("cpu"), "fp16"), nan_steps=(9,))
    assert state["scaler"]["scale"] < 65536


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CAPTURED])
def test_not_capturable_methods_cannot_be_replayed(name):
    eager, _, _ = train(Step, name, rates_on_device=True)
    captured, _, warnings = train(CapturedStep, name, capturer=Tape())
    if METHODS[name].cls.gradient_decides:
        assert "waits for the device, which cannot be captured" in warnings[0]
    else:
        assert differences(captured["model"], eager["model"]) != []


@pytest.mark.parametrize("name", CAPTURED)
def test_replay_after_empty_capture_equals_eager(monkeypatch, name):
    # With the stand-in for CUDA, which computes nothing during a capture.
    eager, _, _ = train(Step, name, rates_on_device=True)
    install(monkeypatch)
    captured, step, warnings = train(CapturedStep, name)
    assert warnings == [] and step.captured
    assert differences(captured, eager) == []


def test_each_kind_of_step_is_captured_after_warmup():
    few, many = (train(CapturedStep, "sam_every_k", capturer=Tape(), steps=n)[1] for n in (4 * WARMUP_STEPS, STEPS))
    assert set(few.captured) == {(8, True)}
    assert set(many.captured) == {(8, True), (8, False), (5, False)}


def channels_last_network() -> torch.nn.Module:
    return build_model("resnet", classes=10, depth=8).to(memory_format=torch.channels_last)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("name", "compiled"),
    [*((name, False) for name in CAPTURED), *((name, True) for name in ("sgd", "gsam", "looksam"))],
)
def test_replay_on_gpu_equals_eager_bit_for_bit(request, name, compiled):
    hardware = Hardware(torch.device("cuda"), "bf16")
    hardware.configure(deterministic=True)
    request.addfinalizer(lambda: hardware.configure(deterministic=False))

    options = {"steps": 100, "network": channels_last_network, "hardware": hardware, "compiled": compiled}
    eager, _, _ = train(Step, name, rates_on_device=True, **options)
    captured, step, warnings = train(CapturedStep, name, **options)
    assert warnings == [] and step.engine == "graph"
    assert differences(captured, eager) == []
