"""Tests of the benchmark's cases: processes that run steps on request, and how they are written as text."""

import dataclasses
import json

import pytest

from scripts.benchmark import case
from scripts.benchmark.records import Case
from tests.conftest import ROOT
from tests.scripts.processes import run_python

SCRIPT = str(ROOT / "scripts" / "benchmark" / "case.py")


def answers(case: Case, commands: str, *launcher: str) -> list[dict]:
    """Run a case on the CPU with small batches; return its answers to the commands, its facts first.

    Args:
        launcher: the arguments of Python that start several processes.
    """
    case = dataclasses.replace(case, model="resnet8", device="cpu", batch_size=8)
    done = run_python(*launcher, SCRIPT, case.to_json(), text=commands)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("case", "passes"),
    [
        (Case("ours", method="looksam"), 1.2),
        (Case("ours", method="sgd"), 1),
        (Case("lower bound", engine="eager"), 0),
        (Case("batches", method="sam"), 0),
        (Case("user's loop", precision="autocast"), 0),
        (Case("matmul", precision="fp32"), 0),
    ],
    ids=str,
)
def test_case_answers_seconds_passes_and_memory(case, passes):
    facts, turn = answers(case, "10\n")
    assert facts["threads"] == 1
    assert turn["seconds"] > 0 and turn["peak_memory_bytes"] > 2**20
    assert turn["passes"] == pytest.approx(passes)


def test_flop_are_those_of_the_network():
    (facts,) = answers(Case("lower bound", engine="eager"), "")

    # The channels in and out, and the height, of each convolution of ResNet-8.
    layers = [(3, 16, 32), (16, 16, 32), (16, 16, 32), (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8)]
    forward = 2 * 8 * (sum(9 * a * b * size**2 for a, b, size in layers) + 64 * 10)
    first = 2 * 8 * 9 * layers[0][0] * layers[0][1] * 32**2  # no gradient with respect to the images
    assert facts["flop"] == 3 * forward - first


def test_case_of_two_processes_takes_turns():
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    _, turn = answers(Case("ours", method="sam"), "2\n", *launcher)
    assert turn["passes"] == 2


def test_case_survives_json():
    case = Case("user's loop", "resnet8", precision="autocast", batch_size=64, processes=2, threads=3)
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize("text", ["{}", "kind=ours", '{"kind": "ours", "mdel": "resnet8"}', '{"kind": "theirs"}'])
def test_text_that_is_no_case_is_refused(text):
    with pytest.raises(SystemExit, match="2"):
        case.main([text])
