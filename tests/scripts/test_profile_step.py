"""Tests of the profile of a step: what counts as a launch, the parts of a step, and convolutions."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts import profile_step
from scripts.benchmark.records import Case
from tests.conftest import ROOT, everything_below
from tests.scripts.processes import run_python


def test_launches_are_operations_that_compute():
    x, several = torch.ones(2, 3, requires_grad=True), [torch.ones(n) for n in (1, 2, 3)]

    def work():
        y = (x * 2).view(3, 2).expand(4, 3, 2)  # one launch: views compute nothing
        empty = torch.empty(3).detach().t_()
        empty.zero_()
        torch._foreach_add_(several, 1)
        torch.promote_types(torch.float32, torch.int64)
        # Forward a sum; backward the first gradient, the sum over what was expanded, and the product.
        y.sum().backward()

    assert profile_step.launches(work) == {"mul": 2, "zero_": 1, "_foreach_add_": 1, "sum": 2, "ones_like": 1}


def test_launches_of_step_are_passes_batch_and_rest():
    def count(method: str) -> profile_step.StepLaunches:
        case = Case("ours", "resnet8", method, batch_size=4, device="cpu", precision="fp32")
        return profile_step.count(profile_step.warm(case), 1)

    sgd, sam = count("sgd"), count("sam")
    assert sgd.whole["convolution"] == sgd.passes["convolution"] == 7
    assert sam.whole["convolution"] == sam.passes["convolution"] == 14
    assert sam.passes.total() == pytest.approx(2 * sgd.passes.total(), rel=0.1)
    for launches in (sgd, sam):
        assert launches.whole == launches.passes + launches.batches + launches.rest
        assert launches.batches["index"] == 2
        assert launches.rest["_fused_sgd_"] == 1


def test_profile_prints_seconds_and_operations(folder):
    options = "--model resnet8 --batch-size 4 --steps 1 --top 3 --device cpu --precision fp32"
    done = run_python(str(ROOT / "scripts" / "profile_step.py"), *options.split())
    assert done.returncode == 0, done.stderr
    heading, _, seconds, launches, operations, _, *table = done.stdout.splitlines()
    assert heading.startswith("resnet8, sam, batches of 4, eager, fp32, ")
    assert float(seconds.removeprefix("a step: ").removesuffix(" ms")) > 0
    assert launches.startswith("launches a step, taken one by one: ") and "_foreach_add_" not in launches
    assert "convolutions " in operations
    assert len(table) == 5 and any("aten::convolution_backward | 14 |" in row for row in table)


def test_launches_prints_a_row_per_network(capsys):
    profile_step.main(["--launches", "resnet8,resnet20", "--optimizer", "sgd"])
    rows = capsys.readouterr().out.splitlines()
    *_, first, second = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert (first[0], second[0]) == ("resnet8", "resnet20")
    for name, *numbers in (first, second):
        whole, passes, batch, rest = map(int, numbers)
        assert whole == passes + batch + rest, name


def test_of_device_sums_kernels_and_copies():
    events = [("kernel", "a", 2.0), ("kernel", "a", 4.0), ("gpu_memcpy", "b", 1.0), ("cpu_op", "c", 9.0)]
    trace = {"traceEvents": [{"cat": kind, "name": name, "dur": spent} for kind, name, spent in events] + [{"ph": "M"}]}

    def export_chrome_trace(path: str) -> None:
        Path(path).write_text(json.dumps(trace))

    kernels = profile_step.of_device(SimpleNamespace(export_chrome_trace=export_chrome_trace))
    assert kernels == [("a", 2, pytest.approx(6e-6)), ("b", 1, pytest.approx(1e-6))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aten::convolution_backward", True),
        ("sm90_xmma_wgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", True),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized>", True),
        ("triton_tem_fused_convolution_3", True),
        ("triton_poi_fused__to_copy_convolution_relu_1", False),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW", False),
        ("aten::native_batch_norm", False),
    ],
)
def test_is_convolution_goes_by_name(name, expected):
    assert profile_step.is_convolution(name) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model resnet9", "did you mean resnet"),
        ("--launches resnet8,resnet9", "did you mean resnet"),
        ("--optimizer sm", "did you mean sam"),
        ("--engine quick", "argument --engine: invalid choice"),
        ("--steps 0", "argument --steps: 0 is less than 1"),
        ("--top few", "argument --top: invalid"),
        ("--method sam", "unrecognized arguments: --method"),
    ],
)
def test_bad_arguments_are_refused(refused, arguments, message):
    refused(profile_step.main, arguments, message)


def test_missing_cuda_device_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        profile_step.main(["--device", "cuda"])
    assert capsys.readouterr().out == ""
    assert everything_below(folder) == []
