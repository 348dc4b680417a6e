"""The profile of a step: what counts as a launch, and whose it is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts import profile_step
from scripts.benchmark.records import Case
from tests.conftest import ROOT, everything_below

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_launches_are_the_operations_that_compute_something():
    x, several = torch.ones(2, 3, requires_grad=True), [torch.ones(n) for n in (1, 2, 3)]

    def work():
        y = (x * 2).view(3, 2).expand(4, 3, 2)  # one: views compute nothing
        empty = torch.empty(3).detach().t_()
        empty.zero_()
        torch._foreach_add_(several, 1)
        torch.promote_types(torch.float32, torch.int64)
        y.sum().backward()  # its own, that of what was expanded, the product's; and what begins it

    assert profile_step.launches(work) == {"mul": 2, "zero_": 1, "_foreach_add_": 1, "sum": 2, "ones_like": 1}


def test_launches_of_a_step_are_those_of_its_passes_of_its_batch_and_the_rest():
    def counted(method: str) -> profile_step.StepLaunches:
        case = Case("ours", "resnet8", method, batch_size=4, device="cpu", precision="fp32")
        return profile_step.count(profile_step.warm(case), 1)

    found = {method: counted(method) for method in ("sgd", "sam")}
    convolutions = {method: (each.whole["convolution"], each.passes["convolution"]) for method, each in found.items()}
    assert convolutions == {"sgd": (7, 7), "sam": (14, 14)}
    assert found["sam"].passes.total() == pytest.approx(2 * found["sgd"].passes.total(), rel=0.1)
    for each in found.values():
        assert each.whole == each.passes + each.batches + each.rest
        assert each.batches["index"] == 2
        assert each.rest["_fused_sgd_"] == 1


def test_a_step_is_profiled(folder):
    options = "--model resnet8 --batch-size 4 --steps 1 --top 3 --device cpu --precision fp32"
    command = [sys.executable, str(ROOT / "scripts" / "profile_step.py"), *options.split()]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heading, _, seconds, launches, operations, _, *table = done.stdout.splitlines()
    assert heading.startswith("resnet8, sam, batches of 4, eager, fp32, ")
    assert float(seconds.removeprefix("a step: ").removesuffix(" ms")) > 0
    assert launches.startswith("launches a step, taken one by one: ") and "_foreach_add_" not in launches
    assert "convolutions " in operations
    assert len(table) == 5 and any("aten::convolution_backward | 14 |" in row for row in table)


def test_launches_of_several_networks_are_a_table(capsys):
    profile_step.main(["--launches", "resnet8,resnet20", "--optimizer", "sgd"])
    rows = capsys.readouterr().out.splitlines()
    *_, first, second = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert (first[0], second[0]) == ("resnet8", "resnet20")
    for name, *numbers in (first, second):
        whole, passes, batch, rest = map(int, numbers)
        assert whole == passes + batch + rest, name


def test_on_cuda_kernels_and_copies_count_by_what_the_device_ran():
    events = [("kernel", "a", 2.0), ("kernel", "a", 4.0), ("gpu_memcpy", "b", 1.0), ("cpu_op", "c", 9.0)]
    trace = {"traceEvents": [{"cat": kind, "name": name, "dur": spent} for kind, name, spent in events] + [{"ph": "M"}]}

    def export_chrome_trace(path: str) -> None:
        Path(path).write_text(json.dumps(trace))

    found = profile_step.of_device(SimpleNamespace(export_chrome_trace=export_chrome_trace))
    assert found == [("a", 2, pytest.approx(6e-6)), ("b", 1, pytest.approx(1e-6))]


@pytest.mark.parametrize(
    ("name", "convolution"),
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
def test_convolutions_are_known_by_their_names(name, convolution):
    assert profile_step.is_convolution(name) == convolution


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model resnet9", "did you mean resnet"),
        ("--launches resnet8,resnet9", "did you mean resnet"),
        ("--optimizer sm", "did you mean sam"),
        ("--engine quick", "argument --engine: invalid choice"),
        ("--device cuda", "no CUDA device"),
        ("--steps 0", "argument --steps: 0 is less than 1"),
        ("--top few", "argument --top: invalid"),
        ("--method sam", "unrecognized arguments: --method"),
    ],
)
def test_bad_arguments_are_told(folder, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        profile_step.main(arguments.split())
    shown, error = capsys.readouterr()
    assert said in (str(ended.value) if "cuda" in arguments else error)
    assert ended.value.code != 0
    assert (shown, everything_below(folder)) == ("", [])
