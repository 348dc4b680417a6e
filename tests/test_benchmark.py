"""The benchmark: its contenders work, and its figures are what they are called."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sam_bench.errors import ConfigError
from sam_bench.hardware import Hardware
from tests.conftest import ROOT, everything_below

SCRIPTS = ROOT / "scripts"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("benchmark")


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
def measured():
    """What a machine might have given whose pass takes a second, and whose steps 1.25 times their passes."""

    def group(facts=None, contenders=None, evaluation_seconds=None, **of_each: list[dict]) -> dict:
        names = {name: name.replace("__", ", ").replace("_", " ") for name in of_each}
        found = {names[name]: values for name, values in of_each.items()}
        return {
            "contenders": contenders or {},
            "facts": facts or {},
            "turns": found,
            "evaluation_seconds": evaluation_seconds,
        }

    groups = {
        "resnet8: limit": group(
            {"limit": {"flop": 10**12}, "matmul": {"flop": 10**13}, "sam": {"engine": "eager"}},
            evaluation_seconds=9.775,
            limit=turns(1, 1, 1),
            limit__compiled=turns(2, 2, 2),
            sgd=turns(1.25, 1.25, 1.25, passes=1),
            sam=turns(2.5, 2.5, 2.5, passes=2),
            batches=turns(0.025, 0.025, 0.025),
            matmul=turns(1, 1, 1),
        ),
        "resnet8: user's loop": group(sam=turns(2, 4, 2), user__fp32=turns(6, 8, 6), user__autocast=turns(3, 6, 3)),
        "resnet8: looksam": group(
            limit=turns(1, 1, 1), sgd=turns(1, 1, 1, passes=1), looksam=turns(1.8, 1.8, 1.8, passes=1.2)
        ),
        "resnet20: batch 64": group(
            contenders={"sam": {"batch": "64"}}, limit=turns(1, 1, 1), sam=turns(2.2, 2.2, 2.2, passes=2)
        ),
        "resnet8: engines": group(
            {"eager": {"engine": "eager"}, "compile": {"engine": "eager"}},
            eager=turns(2, 2, 2, passes=2),
            compile=turns(1, 1, 1, passes=2),
        ),
    }
    versions = {"torch": "2", "cuda": None, "python": "3"}
    about = {"device": "A CPU (1 threads)", "precision": "bf16", "versions": versions, "git_commit": None}
    return about | {"groups": groups, "not_measured": ["wrn16_8: limit"]}


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
        "Not measured: wrn16_8: limit.",
        "| | resnet8 |",
        "| SAM's step / its two bare passes | 1.25 |",
        "| a user's loop, autocast / ours | 1.50 |",
        "| SAM's FLOP/s / a matrix product's | 8% |",
    ],
)
def test_the_report_gives_ratios_of_the_same_round(benchmark, measured, row):
    assert row in benchmark.report(measured).splitlines()


def test_an_earlier_result_is_kept(benchmark, measured, folder):
    for precision in ("fp32", "bf16"):
        benchmark.write(folder, measured | {"precision": precision})
    new, old = sorted(folder.glob("*.json"), key=lambda path: len(path.name))
    assert new.name == "a-cpu-1-threads.json"
    assert [json.loads(path.read_text())["precision"] for path in (new, old)] == ["bf16", "fp32"]
    assert len(list(folder.glob("*.md"))) == 2


def test_a_contender_that_fails_is_named_and_the_others_are_measured(benchmark, monkeypatch, folder, capsys):
    def measure(group, *_):
        if group.name.endswith("user's loop"):
            raise ConfigError("kind=user: it ended")
        return {"contenders": {}, "facts": {}, "turns": {}}

    monkeypatch.setattr(benchmark.Group, "measure", measure)
    monkeypatch.setattr(benchmark, "report", lambda data: "\n".join([*data["groups"], *data["not_measured"]]))
    benchmark.main(["device=cpu", "models=resnet8", "methods=sgd,sam", "scaling=false", "out=out"])
    data = json.loads(next(Path("out").glob("*.json")).read_text())
    assert list(data["groups"]) == ["resnet8: limit", "resnet8: engines", "resnet8: sam"]
    assert data["not_measured"] == ["resnet8: user's loop (kind=user: it ended)"]
    assert "it ended" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "benchmark").glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_reports_are_made_from_their_data(benchmark, path):
    assert path.with_suffix(".md").read_text() == benchmark.report(json.loads(path.read_text())) + "\n"


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
