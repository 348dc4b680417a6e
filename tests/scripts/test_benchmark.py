"""The benchmark: its cases work, and its figures are what they are called."""

import dataclasses
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
from scripts.benchmark import benchmark, case
from scripts.benchmark.plan import Plan
from scripts.benchmark.records import Case, CaseResult, Comparison, ComparisonResult
from scripts.benchmark.report import report
from tests.conftest import ROOT, everything_below, has_ended

FOLDER = ROOT / "scripts" / "benchmark"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def answers(case: Case, commands: str, command: tuple[str, ...] = ()) -> list[dict]:
    """Return what a case that is told so answers, on small batches and the CPU."""
    case = dataclasses.replace(case, model="resnet8", device="cpu", batch_size=8)
    done = subprocess.run(
        [sys.executable, *command, str(FOLDER / "case.py"), case.to_json()],
        input=commands,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
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
def test_a_case_says_how_long_its_steps_took(case, passes):
    facts, turn = answers(case, "10\n")
    assert facts["threads"] == 1
    assert turn["seconds"] > 0 and turn["peak_memory_bytes"] > 2**20
    assert turn["passes"] == pytest.approx(passes)


def test_floating_point_operations_are_those_of_the_network():
    (facts,) = answers(Case("lower bound", engine="eager"), "")
    layers = [(3, 16, 32), (16, 16, 32), (16, 16, 32), (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8)]
    forward = 2 * 8 * (sum(9 * a * b * size**2 for a, b, size in layers) + 64 * 10)
    first = 2 * 8 * 9 * layers[0][0] * layers[0][1] * 32**2  # no gradient with respect to the images
    assert facts["flop"] == 3 * forward - first


def test_cases_of_several_processes_take_turns_too():
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    _, turn = answers(Case("ours", method="sam"), "2\n", command)
    assert turn["passes"] == 2


def test_a_case_is_read_back_from_what_is_written():
    case = Case("user's loop", "resnet8", precision="autocast", batch_size=64, processes=2, threads=3)
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize("text", ["{}", "kind=ours", '{"kind": "ours", "mdel": "resnet8"}', '{"kind": "theirs"}'])
def test_what_is_no_case_is_refused(text):
    with pytest.raises(SystemExit, match="2"):
        case.main([text])


def turns(*seconds: float, passes: float = 0.0) -> list[dict]:
    return [{"seconds": s, "passes": passes, "peak_memory_bytes": 2**20} for s in seconds]


BARE = Case("lower bound", engine="eager")
COMPILED = Case("lower bound", engine="compile")
SGD = Case("ours", method="sgd")
SAM = Case("ours", method="sam")
BATCHES = Case("batches")
MATMUL = Case("matmul")


def measured() -> list[ComparisonResult]:
    """Return what a machine might give whose pass takes a second, and whose steps 1.25 times their passes."""
    results = [
        CaseResult(BARE, {"flop": 10**12}, turns(2, 2, 2)),
        CaseResult(COMPILED, {}, turns(1, 1, 1)),
        CaseResult(SGD, {}, turns(1.25, 1.25, 1.25, passes=1)),
        CaseResult(SAM, {"engine": "eager"}, turns(2.5, 2.5, 2.5, passes=2)),
        CaseResult(BATCHES, {}, turns(0.025, 0.025, 0.025)),
        CaseResult(MATMUL, {"flop": 10**13}, turns(1, 1, 1)),
    ]
    users = [
        CaseResult(SAM, {}, turns(2, 4, 2)),
        CaseResult(Case("user's loop", precision="fp32"), {}, turns(6, 8, 6)),
        CaseResult(Case("user's loop", precision="autocast"), {}, turns(3, 6, 3)),
    ]
    methods = [
        CaseResult(BARE, {}, turns(2, 2, 2)),
        CaseResult(SGD, {}, turns(1, 1, 1, passes=1)),
        CaseResult(Case("ours", method="looksam"), {}, turns(1.8, 1.8, 1.8, passes=1.2)),
    ]
    batch = [
        CaseResult(dataclasses.replace(BARE, batch_size=64), {}, turns(1, 1, 1)),
        CaseResult(dataclasses.replace(SAM, batch_size=64), {}, turns(2.2, 2.2, 2.2, passes=2)),
    ]
    engines = [
        CaseResult(dataclasses.replace(SAM, engine="eager"), {"engine": "eager"}, turns(2, 2, 2, passes=2)),
        CaseResult(dataclasses.replace(SAM, engine="compile"), {"engine": "eager"}, turns(1, 1, 1, passes=2)),
    ]
    return [
        ComparisonResult("lower bound", "resnet8", results, evaluation_seconds=9.775),
        ComparisonResult("user's loop", "resnet8", users),
        ComparisonResult("method", "resnet8", methods),
        ComparisonResult("batch size", "resnet20", batch),
        ComparisonResult("engines", "resnet8", engines),
    ]


def lines(comparisons: list[ComparisonResult]) -> list[str]:
    """Return the lines of the report on comparisons, written as JSON and read back."""
    about = {"device": "A CPU (1 threads)", "precision": "bf16", "git_commit": None}
    about |= {"versions": {"torch": "2", "cuda": None, "python": "3"}, "not_measured": ["wrn16_8: lower bound"]}
    written = json.dumps(about | {"comparisons": [dataclasses.asdict(comparison) for comparison in comparisons]})
    return report(json.loads(written)).splitlines()


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
        "Not measured: wrn16_8: lower bound.",
        "| | resnet8 |",
        "| SAM's step / its two bare passes | 1.25 |",
        "| a user's loop, autocast / ours | 1.50 |",
        "| SAM's FLOP/s / a matrix product's | 8% |",
    ],
)
def test_the_report_gives_ratios_of_the_same_round(row):
    assert row in lines(measured())


def test_results_are_on_the_disk_after_every_comparison_and_earlier_ones_are_kept(folder):
    hardware = Hardware(torch.device("cpu"), "bf16")
    for _ in range(2):
        output = benchmark.Output(folder / "out", hardware, 0.0)
        for count, comparison in enumerate(measured(), start=1):
            output.add(comparison)
            assert len(json.loads(output.path.read_text())["comparisons"]) == count
    assert sorted(path.suffix for path in (folder / "out").iterdir()) == [".json", ".json", ".md", ".md"]


def test_what_is_missing_leaves_the_rest_of_the_report():
    whole = lines(measured())
    bound, users, *others = measured()
    bound.results.remove(bound.find(engine="compile"))
    users.results.remove(users.find(precision="fp32"))
    less = lines([bound, users, *others])
    assert "| a user's loop, autocast / ours | 1.500 (1.500 – 1.500) |" in less
    assert "| ours / the faster of these | 0.625 (0.625 – 0.625) |" in less
    rows = [row for row in lines([users, *others]) if row.startswith("| LookSAM")]
    assert rows == [row for row in whole if row.startswith("| LookSAM")] != []


def test_an_evaluation_that_was_not_timed_leaves_the_rest_of_the_report():
    bound, *others = measured()
    less = lines([dataclasses.replace(bound, evaluation_seconds=None), *others])
    left_out = [row for row in lines(measured()) if row not in less]
    assert [row.split()[1] for row in left_out] == ["evaluating"] * 3


@pytest.mark.parametrize("question", ["engines", "batch size", "method", "user's loop"])
def test_a_comparison_in_which_no_case_got_warm_leaves_the_rest_of_the_report(question):
    found = [dataclasses.replace(each, results=[]) if each.question == question else each for each in measured()]
    assert "| ours, eager | 2500 ms (2500 – 2500) |" in lines(found)


STAND_IN = """
import json, subprocess, sys, time
what = json.loads(sys.argv[1])["kind"]
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
def stand_in(folder, monkeypatch):
    (folder / "case.py").write_text(STAND_IN)
    monkeypatch.setattr(benchmark, "CASE", folder / "case.py")
    monkeypatch.setattr(benchmark, "PATIENCE", 2.0)

    def comparison(*kinds: str):
        cases = tuple(map(Case, kinds))
        return Comparison(" and ".join(kinds), "resnet8", cases, evaluated=cases[0])

    return comparison


FOREVER = float("inf")


def counts(measured: ComparisonResult) -> dict[str, int]:
    return {result.case.kind: len(result.turns) for result in measured.results}


def test_cases_take_turns_and_one_that_does_not_get_warm_is_left_out(stand_in):
    measured, failed = benchmark.measure(stand_in("works", "not warm", "works too"), 5, 0.02, FOREVER)
    assert counts(measured) == {"works": 5, "works too": 5}
    assert measured.evaluation_seconds == 0.01
    assert failed == ["resnet8: works and not warm and works too, not warm (it ended, or did not answer)"]


def test_cases_get_warm_one_after_the_other(stand_in, monkeypatch):
    """Convolutions and compiled kernels are chosen by timing them, alone on the device."""
    events, process = [], benchmark.CaseProcess

    class Told(process):
        def __init__(self, *arguments):
            events.append("begins")
            super().__init__(*arguments)

        def ready(self):
            facts = super().ready()
            events.append("is warm")
            return facts

    monkeypatch.setattr(benchmark, "CaseProcess", Told)
    benchmark.measure(stand_in("works", "works too"), 3, 0.02, FOREVER)
    assert events == ["begins", "is warm"] * 2


@pytest.mark.parametrize("what", ["dies", "hangs"])
def test_one_that_fails_later_fails_its_comparison(stand_in, what):
    with pytest.raises(ConfigError, match="did not answer"):
        benchmark.measure(stand_in("works", what), 5, 0.02, FOREVER)


def test_the_deadline_is_kept_and_no_process_is_left(stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    began = time.monotonic()
    with pytest.raises(benchmark.OutOfTime, match="no time"):
        benchmark.measure(stand_in("works", "never warm"), 5, 0.02, began + 3)
    assert 3 <= time.monotonic() - began < 7
    assert has_ended(int(Path("child").read_text()))


def test_rounds_that_were_done_before_the_deadline_are_kept(stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    measured, failed = benchmark.measure(stand_in("works", "hangs late"), 9, 0.01, time.monotonic() + 3)
    assert counts(measured) == {"works": 4, "hangs late": 4}
    assert measured.evaluation_seconds is None
    assert failed == ["resnet8: works and hangs late, evaluation (no time)"]


def test_what_there_was_no_time_for_is_named_in_what_is_written(stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    found = [stand_in("works"), stand_in("never warm"), stand_in("works too")]
    monkeypatch.setattr(Plan, "comparisons", lambda *_: found)
    began = time.monotonic()
    benchmark.main(["--device", "cpu", "--minutes", "0.05", "--seconds", "0.01", "--out", "out"])
    assert time.monotonic() - began < 7
    data = json.loads(next(Path("out").glob("*.json")).read_text())
    assert [comparison["question"] for comparison in data["comparisons"]] == ["works"]
    assert data["not_measured"] == ["resnet8: never warm (no time)", "resnet8: works too (no time)"]


def test_a_comparison_that_fails_is_named_and_the_others_are_measured(monkeypatch, folder, capsys):
    def measure(comparison, *_):
        if comparison.question == "user's loop":
            raise ConfigError("it ended")
        return ComparisonResult(comparison.question, comparison.model, []), []

    monkeypatch.setattr(benchmark, "measure", measure)
    benchmark.main(["--device", "cpu", "--models", "resnet8", "--methods", "sgd,sam", "--no-scaling", "--out", "out"])
    data = json.loads(next(Path("out").glob("*.json")).read_text())
    assert [comparison["question"] for comparison in data["comparisons"]] == ["lower bound", "engines", "method"]
    assert data["not_measured"] == ["resnet8: user's loop (it ended)"]
    assert "it ended" in capsys.readouterr().err


COMMITTED = [path for path in (ROOT / "results" / "benchmark").glob("*.json") if "-until-" not in path.name]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_committed_reports_are_made_from_their_data(path):
    assert path.with_suffix(".md").read_text() == report(json.loads(path.read_text())) + "\n"


@pytest.mark.parametrize("cuda", [False, True])
def test_every_required_comparison_is_planned(monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    models, methods = ["resnet8", "resnet20", "wrn16_8"], ["sgd", "sam", "asam", "gsam", "wsam", "looksam"]
    names = list(map(str, Plan("cuda" if cuda else "cpu", "bf16").comparisons(models, methods, True)))
    for model in models:
        assert {f"{model}: {what}" for what in ("lower bound", "user's loop", *methods) if what != "sgd"} <= set(names)
    engines = {name for name in names if name.endswith("engines")}
    on_cuda = {f"{name}: engines" for name in ("wrn16_8", "wrn22_8", "resnet20", "pyramidnet110")}
    assert engines == (on_cuda if cuda else {"resnet8: engines"})
    assert ("wrn16_8: GPUs" in names) == cuda
    assert ("resnet20: threads" in names) == (not cuda)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--models resnet9", "did you mean resnet"),
        ("--methods sm", "did you mean"),
        ("--rounds x", "argument --rounds: invalid"),
        ("--rounds 2", "2 is less than 3"),
        ("--minutes soon", "argument --minutes: invalid"),
        ("--minutes 0", "argument --minutes: 0 is less"),
        ("--device gpu", "argument --device: invalid choice"),
        ("--precision foo", "argument --precision: invalid choice"),
        ("--model resnet8", "unrecognized arguments: --model"),
    ],
)
def test_bad_arguments_are_told_and_create_nothing(refused, arguments, said):
    refused(benchmark.main, arguments, said)


def test_a_text_that_no_comparison_has_is_refused_with_the_names_there_are(folder):
    asked = ["--device", "cpu", "--models", "resnet8", "--methods", "sam,usam", "--no-scaling", "--only", "usam,method"]
    with pytest.raises(SystemExit, match=r"--only method: .* There are .*, resnet8: usam$"):
        benchmark.main(asked)
    assert everything_below(folder) == []
    comparisons = Plan("cpu", "fp32").comparisons(["resnet8"], ["sam", "usam"], scaling=False)
    assert list(map(str, benchmark.chosen(comparisons, ["usam", "engines"]))) == ["resnet8: engines", "resnet8: usam"]
    assert benchmark.chosen(comparisons, [""]) == comparisons
