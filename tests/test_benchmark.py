"""The benchmark: its contenders work, and its figures are what they are called."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from sam_bench.hardware import Hardware
from tests.conftest import ROOT, everything_below

SCRIPTS = ROOT / "scripts"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPTS / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def answers(options: list[str], commands: str, command: tuple[str, ...] = ()) -> list[dict]:
    """Of a contender that is told so."""
    done = subprocess.run(
        [sys.executable, *command, str(SCRIPTS / "contender.py"), "device=cpu", "batch=8", "model=resnet8", *options],
        input=commands,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        (["kind=ours", "method=looksam"], 1.2),
        (["kind=ours", "method=sgd"], 1),
        (["kind=limit", "engine=eager"], 0),
        (["kind=batches"], 0),
        (["kind=user", "precision=autocast", "workers=0"], 0),
        (["kind=matmul", "precision=fp32"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_contender_says_how_long_its_steps_took(options, passes):
    facts, turn = answers(options, "10\n")
    assert facts["threads"] == 1
    assert turn["seconds"] > 0 and turn["peak_memory_bytes"] > 2**20
    assert turn["passes"] == pytest.approx(passes)


def test_floating_point_operations_are_those_of_the_network():
    (facts,) = answers(["kind=limit", "engine=eager"], "")
    layers = [(3, 16, 32), (16, 16, 32), (16, 16, 32), (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8)]
    forward = 2 * 8 * (sum(9 * a * b * size**2 for a, b, size in layers) + 64 * 10)
    first = 2 * 8 * 9 * layers[0][0] * layers[0][1] * 32**2  # no gradient with respect to the images
    assert facts["flop"] == 3 * forward - first


def test_contenders_of_several_processes_take_turns_too():
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    _, turn = answers(["kind=ours"], "2\n", command)
    assert turn["passes"] == 2


def turns(*seconds: float, passes: float = 0.0) -> list[dict]:
    return [{"seconds": s, "passes": passes, "peak_memory_bytes": 2**20} for s in seconds]


@pytest.fixture
def measured(benchmark):
    """What a machine might have given whose pass takes a second, and whose steps 1.25 times their passes."""
    limit = benchmark.Group("resnet8: limit", {}, extra="sam")
    limit.turns = {
        "limit": turns(1, 1, 1), "limit, compiled": turns(2, 2, 2), "sgd": turns(1.25, 1.25, 1.25, passes=1),
        "sam": turns(2.5, 2.5, 2.5, passes=2), "batches": turns(0.025, 0.025, 0.025), "matmul": turns(1, 1, 1),
    }  # fmt: skip
    limit.facts = {"limit": {"flop": 10**12, "threads": 1}, "matmul": {"flop": 10**13}, "sam": {"engine": "eager"}}
    limit.evaluation_seconds = 9.775
    user = benchmark.Group("resnet8: user's loop", {})
    user.turns = {"sam": turns(2, 4, 2), "user, fp32": turns(6, 8, 6), "user, autocast": turns(3, 6, 3)}
    looksam = benchmark.Group("resnet8: looksam", {})
    looksam.turns = {
        "limit": turns(1, 1, 1),
        "sgd": turns(1, 1, 1, passes=1),
        "looksam": turns(1.8, 1.8, 1.8, passes=1.2),
    }
    batch = benchmark.Group("resnet20: batch 64", {"sam": {"batch": "64"}})
    batch.turns = {"limit": turns(1, 1, 1), "sam": turns(2.2, 2.2, 2.2, passes=2)}
    engines = benchmark.Group("resnet8: engines", {})
    engines.turns = {"eager": turns(2, 2, 2, passes=2), "compile": turns(1, 1, 1, passes=2)}
    engines.facts = {"eager": {"engine": "eager"}, "compile": {"engine": "eager"}}
    return [limit, user, looksam, batch, engines]


@pytest.mark.parametrize(
    "row",
    [
        "| ours, eager | 2500 ms (2500 – 2500) |",
        "| its two passes alone | 2000 ms (2000 – 2000) |",
        "| ours / the faster of the two | 1.250 (1.250 – 1.250) |",
        "| a user's loop, fp32 / ours | 3.000 (2.000 – 3.000) |",
        "| an epoch of 50,000 images | 977.50 s |",
        "| ours, in FLOP/s | 0.800 T |",
        "| ours / the matrix product | 8.0% |",
        "| preparing a batch / the step | 1.00% (1.00% – 1.00%) |",
        "| evaluating every 5th of 200 epochs / training | SAM 0.20%, SGD 0.40% |",
        "| SAM | 2 | 2500 ms (2500 – 2500) | 51 | 1.000 (1.000 – 1.000) | 1.250 (1.250 – 1.250) |",
        "| LookSAM | 1.2 | 1800 ms (1800 – 1800) | 71 | 1.500 (1.500 – 1.500) | 1.500 (1.500 – 1.500) |",
        "| resnet20: batch 64 | 2200 ms (2200 – 2200) | 29 | 1.100 (1.100 – 1.100) |",
        "| eager | 1000 ms (1000 – 1000) | 391.00 s | 0.500 (0.500 – 0.500) |",
        "Not measured, for want of time: wrn16_8: limit.",
    ],
)
def test_the_report_gives_ratios_of_the_same_round(benchmark, measured, row):
    hardware = Hardware(torch.device("cpu"), "bf16")
    assert row in benchmark.report(measured, ["wrn16_8: limit"], hardware).splitlines()


def test_an_earlier_result_is_kept(benchmark, measured, folder):
    hardware = Hardware(torch.device("cpu"), "bf16")
    for text in ("first", "second"):
        benchmark.write(folder, hardware, measured, [], text)
    new, old = sorted(folder.glob("*.md"), key=lambda path: len(path.name))
    assert (new.read_text(), old.read_text()) == ("second\n", "first\n")
    assert json.loads(new.with_suffix(".json").read_text())["groups"].keys() == {group.name for group in measured}


@pytest.mark.parametrize("cuda", [False, True])
def test_every_required_comparison_is_among_the_groups(benchmark, monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    models, methods = ["resnet8", "resnet20", "wrn16_8"], ["sgd", "sam", "asam", "gsam", "wsam", "looksam"]
    hardware = Hardware(torch.device("cuda" if cuda else "cpu"), "bf16")
    names = [group.name for group in benchmark.groups(hardware, models, methods, True)]
    for model in models:
        assert {f"{model}: {what}" for what in ("limit", "user's loop", "asam", "looksam")} <= set(names)
    engines = {name for name in names if name.endswith("engines")}
    assert not cuda or engines == {f"{n}: engines" for n in ("wrn16_8", "wrn22_8", "resnet20", "pyramidnet110")}
    assert ("wrn16_8: GPUs" in names) == cuda


@pytest.mark.parametrize(
    ("argument", "said"),
    [("models=resnet9", "did you mean resnet"), ("methods=sm", "did you mean"), ("rounds=x", "python")],
)
def test_bad_arguments_are_told_and_create_nothing(folder, argument, said):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark.py"), argument], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert everything_below(folder) == []
