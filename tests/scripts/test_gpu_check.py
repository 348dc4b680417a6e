"""`make gpu-check`: it needs nothing of ours installed, keeps its time, and leaves what it has."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import gpu_check
from scripts.benchmark.benchmark import options_of
from scripts.benchmark.records import Case
from tests.conftest import ROOT, everything_below, has_ended

SCRIPTS = ROOT / "scripts"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

WITHOUT = """
import sys

ABSENT = {"wandb", "joblib", "hydra_plugins", "pytorch_optimizer", "ray", "submitit", "ruff", "build", "hatchling"}
ABSENT |= {"matplotlib", "selenium", "torchmetrics", "schedulefree", "curvlinops", "accelerate", "transformers"}
ABSENT |= {"pytorch_lightning", "twine", "mypy"}


class Finder:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Finder, sys.meta_path)
"""


@pytest.fixture
def bare(tmp_path):
    """The environment of processes that find only what such a machine has."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT)
    return ENVIRONMENT | {"PYTHONPATH": f"{site}:{ROOT}"}


def call(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


def test_its_tests_are_collected_where_optional_packages_are_not_installed(bare, tmp_path):
    done = call(
        bare, "-m", "pytest", "-q", "--collect-only", "-m", "cuda", "-p", "no:cacheprovider", str(ROOT / "tests")
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for name in (
        "optim/test_cuda",
        "training/test_waiting",
        "training/test_cuda_graph",
        "training/test_engines",
        "runs/test_run",
        "runs/test_resume",
    ):
        assert f"tests/{name}.py::" in done.stdout
    assert "could not import 'pytorch_optimizer'" in done.stdout


def test_a_users_loop_that_cannot_be_had_says_why(bare):
    case = Case("user's loop", "resnet8", device="cpu")
    done = call(bare, str(SCRIPTS / "benchmark" / "case.py"), case.to_json())
    assert done.stdout == '{"error": "No module named \'pytorch_optimizer\'"}\n', done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_lets_an_environment_of_ones_own_find_the_package(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH $*"\n')
    python.chmod(0o755)
    for target, script in (("gpu-check", "gpu_check"), ("bench", "benchmark/benchmark"), ("profile", "profile_step")):
        command = ["make", "-s", target, f"PYTHON={python}", "OPTIONS=--minutes 3 --out there"]
        for before, after in (("", ""), ("/elsewhere", ":/elsewhere")):
            environment = os.environ | {"PYTHONPATH": before}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.stdout == f"{ROOT}{after} scripts/{script}.py --minutes 3 --out there\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--models resnet9", "did you mean resnet"),
        ("--minutes soon", "argument --minutes: invalid"),
        ("--minutes 0", "argument --minutes: 0 is less"),
        ("--minutes inf", "finite"),
        ("--minute 8", "unrecognized arguments: --minute"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_created(refused, arguments, said):
    refused(gpu_check.main, arguments, said)


def test_it_ends_at_once_where_there_is_no_cuda_device(folder):
    done = call(ENVIRONMENT, str(SCRIPTS / "gpu_check.py"))
    assert done.returncode == 1
    assert "Error: torch finds no CUDA device here" in done.stderr
    assert everything_below(folder) == []


STUBBORN = """
import signal, subprocess, sys, time
obeys = sys.argv[1] == "obeys"
signal.signal(signal.SIGINT, signal.default_int_handler if obeys else signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
open("child", "w").write(str(child.pid))
print("begun")
try:
    time.sleep(100)
finally:
    print("7 passed")
"""


@pytest.mark.parametrize("kind", ["obeys", "does not"])
def test_what_takes_too_long_is_stopped_with_all_that_it_has_started(folder, monkeypatch, capfd, kind):
    monkeypatch.setattr(gpu_check, "ENDING", 1.0)
    began = time.monotonic()
    assert not gpu_check.run([sys.executable, "-c", STUBBORN, kind], began + 3, folder / "log")
    assert time.monotonic() - began < 9
    assert has_ended(int(Path("child").read_text()))
    written = (folder / "log").read_text()
    assert written == capfd.readouterr().out
    before, stopped, _ = written.partition("\nStopped, since its time was over")
    assert before.startswith("begun\n") and stopped
    assert ("7 passed" in before) == (kind == "obeys")


SAYS = "import sys; print(*sys.argv[1:])"


@pytest.mark.parametrize("failing", [None, "TESTS", "BENCHMARK"])
def test_the_benchmark_gets_what_is_left_whatever_became_of_the_tests(folder, monkeypatch, failing):
    for name in ("TESTS", "BENCHMARK"):
        code = f"{SAYS}; sys.exit({name == failing:d})"
        monkeypatch.setattr(gpu_check, name, [sys.executable, "-c", code, name])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--device", "cpu", "--minutes", "2", "--out", "out", "--rounds", "3"])
    assert ended.value.code == (0 if failing is None else 1)
    tests, benchmark = Path("out/gpu-check.log").read_text().splitlines()
    assert tests == "TESTS"
    options = options_of(None).parse_args(benchmark.split()[1:])
    assert (options.device, options.models, options.rounds) == ("cpu", ["wrn16_8", "resnet20"], 3)
    assert 60 * options.minutes == pytest.approx(120 - gpu_check.STARTING, abs=5)
