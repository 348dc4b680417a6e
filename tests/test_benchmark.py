"""The benchmark: its contenders work, and its figures are what they are called."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sam_bench.errors import ConfigError
from sam_bench.runtime.device import Hardware
from tests.conftest import ROOT, everything_below, has_ended

SCRIPTS = ROOT / "scripts"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("scripts.benchmark.benchmark")


def answers(options: list[str], commands: str, command: tuple[str, ...] = ()) -> list[dict]:
    """Of a contender that is told so."""
    done = subprocess.run(
        [
            sys.executable,
            *command,
            str(SCRIPTS / "benchmark" / "case.py"),
            "device=cpu",
            "batch=8",
            "model=resnet8",
            *options,
        ],
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
            limit=turns(2, 2, 2),
            limit__compiled=turns(1, 1, 1),
            sgd=turns(1.25, 1.25, 1.25, passes=1),
            sam=turns(2.5, 2.5, 2.5, passes=2),
            batches=turns(0.025, 0.025, 0.025),
            matmul=turns(1, 1, 1),
        ),
        "resnet8: user's loop": group(sam=turns(2, 4, 2), user__fp32=turns(6, 8, 6), user__autocast=turns(3, 6, 3)),
        "resnet8: looksam": group(
            limit=turns(2, 2, 2), sgd=turns(1, 1, 1, passes=1), looksam=turns(1.8, 1.8, 1.8, passes=1.2)
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
        "| its two passes alone | 4000 ms (4000 – 4000) |",
        "| ours / the faster of these | 1.250 (1.250 – 1.250) |",
        "| a user's loop, fp32 / ours | 3.000 (2.000 – 3.000) |",
        "| 391 such steps (50,000 images) | 977.50 s |",
        "| ours, in FLOP/s | 0.800 T |",
        "| ours / the matrix product | 8.0% |",
        "| preparing a batch / the step | 1.00% (1.00% – 1.00%) |",
        "| evaluating every 5th of 200 epochs / training | SAM 0.20%, SGD 0.40% |",
        "| SAM | 2 | 3 | 2500 ms (2500 – 2500) | 51 | 1.000 (1.000 – 1.000) | 0.625 (0.625 – 0.625) |",
        "| LookSAM | 1.2 | 3 | 1800 ms (1800 – 1800) | 71 | 1.500 (1.500 – 1.500) | 0.750 (0.750 – 0.750) |",
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


def test_results_are_on_the_disk_after_every_group_and_earlier_ones_are_kept(benchmark, measured, folder):
    hardware = Hardware(torch.device("cpu"), "bf16")
    for _ in range(2):
        results = benchmark.Results(folder / "out", hardware, 0.0)
        for count, (name, group) in enumerate(measured["groups"].items(), start=1):
            results.add(name, group)
            assert len(json.loads(results.path.read_text())["groups"]) == count
    assert sorted(path.suffix for path in (folder / "out").iterdir()) == [".json", ".json", ".md", ".md"]


def test_what_is_missing_leaves_the_rest_of_the_report(benchmark, measured):
    whole = benchmark.report(measured).splitlines()
    for name, contender in (("resnet8: limit", "limit, compiled"), ("resnet8: user's loop", "user, fp32")):
        del measured["groups"][name]["turns"][contender]
    less = benchmark.report(measured).splitlines()
    assert "| a user's loop, autocast / ours | 1.500 (1.500 – 1.500) |" in less
    assert "| ours / the faster of these | 0.625 (0.625 – 0.625) |" in less
    del measured["groups"]["resnet8: limit"]
    rows = [row for row in benchmark.report(measured).splitlines() if row.startswith("| LookSAM")]
    assert rows == [row for row in whole if row.startswith("| LookSAM")] != []


def test_an_evaluation_that_was_not_timed_leaves_the_rest_of_the_report(benchmark, measured):
    whole = benchmark.report(measured).splitlines()
    measured["groups"]["resnet8: limit"]["evaluation_seconds"] = None
    left_out = [row for row in whole if row not in benchmark.report(measured).splitlines()]
    assert [row.split()[1] for row in left_out] == ["evaluating"] * 3


@pytest.mark.parametrize("name", ["resnet8: engines", "resnet20: batch 64"])
def test_a_group_of_which_nobody_got_warm_leaves_the_rest_of_the_report(benchmark, measured, name):
    measured["groups"][name]["turns"] = {}
    assert "| ours, eager | 2500 ms (2500 – 2500) |" in benchmark.report(measured).splitlines()


STAND_IN = """
import json, subprocess, sys, time
what = dict(a.split("=") for a in sys.argv[1:])["what"]
if what == "not warm":
    sys.exit("no compiler")
if what == "never warm":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    open("child", "w").write(str(child.pid))
    time.sleep(100)
print(json.dumps({"seconds": 0.01, "threads": 1}), flush=True)
for number, line in enumerate(sys.stdin):
    if number == 3 and what == "dies":
        sys.exit(1)
    if number == 3 and what == "hangs" or number == 5 and what == "hangs late":
        time.sleep(100)
    print(json.dumps({"seconds": 0.01, "passes": 1}), flush=True)
"""


@pytest.fixture
def stand_in(benchmark, folder, monkeypatch):
    (folder / "contender.py").write_text(STAND_IN)
    monkeypatch.setattr(benchmark, "CONTENDER", folder / "contender.py")
    monkeypatch.setattr(benchmark, "PATIENCE", 2.0)

    def group(*kinds: str):
        return benchmark.Group(" and ".join(kinds), {kind: {"what": kind} for kind in kinds}, evaluates=kinds[0])

    return group


FOREVER = float("inf")


def test_contenders_take_turns_and_who_does_not_get_warm_is_left_out(stand_in):
    measured, failed = stand_in("works", "not warm", "works too").measure(5, 0.02, FOREVER)
    assert {name: len(turns) for name, turns in measured["turns"].items()} == {"works": 5, "works too": 5}
    assert measured["evaluation_seconds"] == 0.01
    assert failed == ["works and not warm and works too, not warm (it ended, or did not answer)"]


def test_contenders_get_warm_one_after_the_other(benchmark, stand_in, monkeypatch):
    """Convolutions and compiled kernels are chosen by timing them, alone on the device."""
    events, contender = [], benchmark.Contender

    class Told(contender):
        def __init__(self, *arguments, **options):
            events.append("begins")
            super().__init__(*arguments, **options)

        def ready(self):
            facts = super().ready()
            events.append("is warm")
            return facts

    monkeypatch.setattr(benchmark, "Contender", Told)
    stand_in("works", "works too").measure(3, 0.02, FOREVER)
    assert events == ["begins", "is warm"] * 2


@pytest.mark.parametrize("what", ["dies", "hangs"])
def test_one_that_fails_later_fails_its_group(stand_in, what):
    with pytest.raises(ConfigError, match="did not answer"):
        stand_in("works", what).measure(5, 0.02, FOREVER)


def test_the_deadline_is_kept_and_no_process_is_left(benchmark, stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    began = time.monotonic()
    with pytest.raises(benchmark.OutOfTime, match="no time"):
        stand_in("works", "never warm").measure(5, 0.02, began + 3)
    assert 3 <= time.monotonic() - began < 7
    assert has_ended(int(Path("child").read_text()))


def test_rounds_that_were_done_before_the_deadline_are_kept(benchmark, stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    measured, failed = stand_in("works", "hangs late").measure(9, 0.01, time.monotonic() + 3)
    assert {name: len(turns) for name, turns in measured["turns"].items()} == {"works": 4, "hangs late": 4}
    assert measured["evaluation_seconds"] is None
    assert failed == ["works and hangs late, evaluation (no time)"]


def test_what_there_was_no_time_for_is_named_in_what_is_written(benchmark, stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    found = [stand_in("works"), stand_in("never warm"), stand_in("works too")]
    monkeypatch.setattr(benchmark, "groups", lambda *_: found)
    began = time.monotonic()
    benchmark.main(["device=cpu", "minutes=0.05", "seconds=0.01", "out=out"])
    assert time.monotonic() - began < 7
    data = json.loads(next(Path("out").glob("*.json")).read_text())
    assert list(data["groups"]) == ["works"]
    assert data["not_measured"] == ["never warm (no time)", "works too (no time)"]


def test_a_group_that_fails_is_named_and_the_others_are_measured(benchmark, monkeypatch, folder, capsys):
    def measure(group, *_):
        if group.name.endswith("user's loop"):
            raise ConfigError("it ended")
        return {"contenders": {}, "facts": {}, "turns": {}, "evaluation_seconds": None}, []

    monkeypatch.setattr(benchmark.Group, "measure", measure)
    monkeypatch.setattr(benchmark, "report", lambda data: "")
    benchmark.main(["device=cpu", "models=resnet8", "methods=sgd,sam", "scaling=false", "out=out"])
    data = json.loads(next(Path("out").glob("*.json")).read_text())
    assert list(data["groups"]) == ["resnet8: limit", "resnet8: engines", "resnet8: sam"]
    assert data["not_measured"] == ["resnet8: user's loop (it ended)"]
    assert "it ended" in capsys.readouterr().err


COMMITTED = [path for path in (ROOT / "results" / "benchmark").glob("*.json") if "-until-" not in path.name]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_committed_reports_are_made_from_their_data(benchmark, path):
    assert path.with_suffix(".md").read_text() == benchmark.report(json.loads(path.read_text())) + "\n"


@pytest.mark.parametrize("cuda", [False, True])
def test_every_required_comparison_is_among_the_groups(benchmark, monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    models, methods = ["resnet8", "resnet20", "wrn16_8"], ["sgd", "sam", "asam", "gsam", "wsam", "looksam"]
    hardware = Hardware(torch.device("cuda" if cuda else "cpu"), "bf16")
    names = [group.name for group in benchmark.groups(hardware, models, methods, True)]
    for model in models:
        assert {f"{model}: {what}" for what in ("limit", "user's loop", *methods) if what != "sgd"} <= set(names)
    engines = {name for name in names if name.endswith("engines")}
    on_cuda = {f"{name}: engines" for name in ("wrn16_8", "wrn22_8", "resnet20", "pyramidnet110")}
    assert engines == (on_cuda if cuda else {"resnet8: engines"})
    assert ("wrn16_8: GPUs" in names) == cuda
    assert ("resnet20: threads" in names) == (not cuda)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("models=resnet9", "did you mean resnet"),
        ("methods=sm", "did you mean"),
        ("rounds=x", "python"),
        ("rounds=2", "no quartiles"),
        ("minutes=soon", "python"),
        ("minutes=0", "python"),
        ("device=gpu", "python"),
        ("precision=foo", "python"),
    ],
)
def test_bad_arguments_are_told_and_create_nothing(folder, argument, said):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark" / "benchmark.py"), argument],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert everything_below(folder) == []
