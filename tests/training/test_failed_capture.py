"""Tests of captures that fail: the step is taken again without a capture, and all later ones too."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench.runtime.device import Hardware
from sam_bench.training.cuda_graph import CudaGraphs
from sam_bench.training.step import CapturedStep, Step
from tests.conftest import differences
from tests.training.small_training import STEPS, ErrorRecordingNetwork, train
from tests.training.stand_in import install
from tests.training.tape import Tape, name_of


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
