"""Tests of the benchmark: its plan, turns of cases, deadline, output, and arguments."""

import json
import time
from pathlib import Path

import pytest
import torch

from sam_bench.errors import ConfigError
from sam_bench.runtime.device import Hardware
from scripts.benchmark import benchmark
from scripts.benchmark.plan import Plan
from scripts.benchmark.records import Case, Comparison, ComparisonResult
from tests.conftest import everything_below, has_ended
from tests.scripts.benchmark_results import comparison_results

#: A script in place of `case.py`, which fails in the way that the kind of its case names.
STAND_IN = """
import json, subprocess, sys, time
kind = json.loads(sys.argv[1])["kind"]
if kind == "not warm":
    sys.exit("no compiler")
if kind == "never warm":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    open("child", "w").write(str(child.pid))
    time.sleep(100)
print(json.dumps({"seconds": 0.01, "threads": 1}), flush=True)
for number, line in enumerate(sys.stdin):
    if number == 3 and kind == "dies":
        sys.exit(1)
    if number == 3 and kind == "hangs" or number == 5 and kind == "hangs late":
        time.sleep(100)
    print(json.dumps({"seconds": 0.01, "passes": 1}), flush=True)
"""

FOREVER = float("inf")


@pytest.fixture
def stand_in(folder, monkeypatch):
    """Put the stand-in in place of `case.py`; return a function that makes a comparison of cases of these kinds."""
    (folder / "case.py").write_text(STAND_IN)
    monkeypatch.setattr(benchmark, "CASE", folder / "case.py")
    monkeypatch.setattr(benchmark, "PATIENCE", 2.0)

    def comparison(*kinds: str) -> Comparison:
        cases = tuple(map(Case, kinds))
        return Comparison(" and ".join(kinds), "resnet8", cases, evaluated=cases[0])

    return comparison


def turn_counts(result: ComparisonResult) -> dict[str, int]:
    """Return the number of turns of each case, by its kind."""
    return {case_result.case.kind: len(case_result.turns) for case_result in result.results}


# Turns


def test_cases_take_turns_without_one_that_fails_to_warm_up(stand_in):
    result, failed = benchmark.measure(stand_in("works", "not warm", "works too"), 5, 0.02, FOREVER)
    assert turn_counts(result) == {"works": 5, "works too": 5}
    assert result.evaluation_seconds == 0.01
    assert failed == ["resnet8: works and not warm and works too, not warm (it ended, or did not answer)"]


def test_cases_warm_up_one_after_the_other(stand_in, monkeypatch):
    # Convolutions and compiled kernels are chosen by timing them, so a case must be alone on the device.
    events = []

    class RecordedProcess(benchmark.CaseProcess):
        def __init__(self, *arguments):
            events.append("begins")
            super().__init__(*arguments)

        def ready(self):
            super().ready()
            events.append("is warm")

    monkeypatch.setattr(benchmark, "CaseProcess", RecordedProcess)
    benchmark.measure(stand_in("works", "works too"), 3, 0.02, FOREVER)
    assert events == ["begins", "is warm"] * 2


@pytest.mark.parametrize("kind", ["dies", "hangs"])
def test_case_that_fails_later_fails_its_comparison(stand_in, kind):
    with pytest.raises(ConfigError, match="did not answer"):
        benchmark.measure(stand_in("works", kind), 5, 0.02, FOREVER)


# Deadline


def test_deadline_ends_all_processes(stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    began = time.monotonic()
    with pytest.raises(benchmark.OutOfTime, match="no time"):
        benchmark.measure(stand_in("works", "never warm"), 5, 0.02, began + 3)
    assert 3 <= time.monotonic() - began < 7
    assert has_ended(int(Path("child").read_text()))


def test_deadline_keeps_finished_rounds(stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    result, failed = benchmark.measure(stand_in("works", "hangs late"), 9, 0.01, time.monotonic() + 3)
    assert turn_counts(result) == {"works": 4, "hangs late": 4}
    assert result.evaluation_seconds is None
    assert failed == ["resnet8: works and hangs late, evaluation (no time)"]


def test_comparisons_after_deadline_are_named(stand_in, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 60.0)
    planned = [stand_in("works"), stand_in("never warm"), stand_in("works too")]
    monkeypatch.setattr(Plan, "comparisons", lambda *_: planned)
    began = time.monotonic()
    benchmark.main(["--device", "cpu", "--minutes", "0.05", "--seconds", "0.01", "--out", "out"])
    assert time.monotonic() - began < 7

    data = json.loads(next(Path("out").glob("*.json")).read_text())
    assert [comparison["question"] for comparison in data["comparisons"]] == ["works"]
    assert data["not_measured"] == ["resnet8: never warm (no time)", "resnet8: works too (no time)"]


# Output


def test_output_is_written_after_each_comparison(folder):
    hardware = Hardware(torch.device("cpu"), "bf16")
    for _ in range(2):
        output = benchmark.Output(folder / "out", hardware, 0.0)
        for count, comparison in enumerate(comparison_results(), start=1):
            output.add(comparison)
            assert len(json.loads(output.path.read_text())["comparisons"]) == count

    # The first output is kept beside the second.
    assert sorted(path.suffix for path in (folder / "out").iterdir()) == [".json", ".json", ".md", ".md"]


def test_failed_comparison_is_named_and_others_measured(monkeypatch, folder, capsys):
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


# Plan and arguments


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_plan_has_every_required_comparison(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    models, methods = ["resnet8", "resnet20", "wrn16_8"], ["sgd", "sam", "asam", "gsam", "wsam", "looksam"]
    names = list(map(str, Plan(device, "bf16").comparisons(models, methods, True)))
    assert len(set(names)) == len(names)
    for model in models:
        assert {f"{model}: {question}" for question in ("lower bound", "user's loop", *methods[1:])} <= set(names)

    on_cuda = device == "cuda"
    engines = ("wrn16_8", "wrn22_8", "resnet20", "pyramidnet110") if on_cuda else ("resnet8",)
    assert {name for name in names if name.endswith("engines")} == {f"{model}: engines" for model in engines}
    assert ("wrn16_8: GPUs" in names) == on_cuda
    assert ("resnet20: threads" in names) == (not on_cuda)


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_bad_arguments_are_refused(refused, arguments, message):
    refused(benchmark.main, arguments, message)


def test_only_without_a_match_is_refused(folder):
    options = "--device cpu --models resnet8 --methods sam,usam --no-scaling --only usam,method"
    with pytest.raises(SystemExit, match=r"--only method: .* There are .*, resnet8: usam$"):
        benchmark.main(options.split())
    assert everything_below(folder) == []


def test_only_chooses_comparisons_by_text():
    comparisons = Plan("cpu", "fp32").comparisons(["resnet8"], ["sam", "usam"], scaling=False)
    names = list(map(str, benchmark.chosen(comparisons, ["usam", "engines"])))
    assert names == ["resnet8: engines", "resnet8: usam"]
    assert benchmark.chosen(comparisons, [""]) == comparisons
