"""Tests of `make gpu-check`: it runs without optional packages, keeps its time, and keeps its log."""

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
from tests.scripts.processes import ENVIRONMENT, run_python

SCRIPTS = ROOT / "scripts"

#: A `sitecustomize.py` that hides optional packages.
WITHOUT_OPTIONAL_PACKAGES = """
import sys

ABSENT = {"wandb", "joblib", "hydra_plugins", "pytorch_optimizer", "ray", "submitit", "ruff", "build", "hatchling"}
ABSENT |= {"matplotlib", "selenium", "torchmetrics", "schedulefree", "curvlinops", "accelerate", "transformers"}
ABSENT |= {"pytorch_lightning", "twine", "mypy", "nbclient", "nbformat"}


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
    """Return the environment of processes that find no optional package."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT_OPTIONAL_PACKAGES)
    return ENVIRONMENT | {"PYTHONPATH": f"{site}:{ROOT}"}


def test_cuda_tests_are_collected_without_packages(bare):
    options = ("-q", "--collect-only", "-m", "cuda", "-p", "no:cacheprovider")
    done = run_python("-m", "pytest", *options, str(ROOT / "tests"), environment=bare)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for name in (
        "optim/test_cuda",
        "training/test_waiting",
        "training/test_cuda_graph",
        "training/test_engines",
        "runs/test_every_preset",
        "runs/test_resume",
    ):
        assert f"tests/{name}.py::" in done.stdout
    assert "could not import 'pytorch_optimizer'" in done.stdout


def test_users_loop_without_its_package_names_it(bare):
    case = Case("user's loop", "resnet8", device="cpu")
    done = run_python(str(SCRIPTS / "benchmark" / "case.py"), case.to_json(), environment=bare)
    assert done.stdout == '{"error": "No module named \'pytorch_optimizer\'"}\n', done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize(("before", "after"), [("", ""), ("/elsewhere", ":/elsewhere")])
@pytest.mark.parametrize(
    ("target", "script"),
    [("gpu-check", "gpu_check"), ("bench", "benchmark/benchmark"), ("profile", "profile_step")],
)
def test_make_adds_package_to_python_path(tmp_path, target, script, before, after):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH $*"\n')
    python.chmod(0o755)
    command = ["make", "-s", target, f"PYTHON={python}", "OPTIONS=--minutes 3 --out there"]
    environment = os.environ | {"PYTHONPATH": before}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{ROOT}{after} scripts/{script}.py --minutes 3 --out there\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--models resnet9", "did you mean resnet"),
        ("--minutes soon", "argument --minutes: invalid"),
        ("--minutes 0", "argument --minutes: 0 is less"),
        ("--minutes inf", "finite"),
        ("--minute 8", "unrecognized arguments: --minute"),
    ],
)
def test_bad_arguments_are_refused(refused, arguments, message):
    refused(gpu_check.main, arguments, message)


def test_check_without_cuda_device_ends_at_once(folder):
    done = run_python(str(SCRIPTS / "gpu_check.py"))
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr and "--device cpu" in done.stderr
    assert everything_below(folder) == []


#: A command that starts a child and ends late; it obeys an interrupt or does not.
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
def test_late_command_is_stopped_with_its_children(folder, monkeypatch, capfd, kind):
    monkeypatch.setattr(gpu_check, "ENDING", 1.0)
    began = time.monotonic()
    assert not gpu_check.run([sys.executable, "-c", STUBBORN, kind], began + 3, folder / "log")
    assert time.monotonic() - began < 9
    assert has_ended(int(Path("child").read_text()))

    log = (folder / "log").read_text()
    assert log == capfd.readouterr().out
    output, note, _ = log.partition("\nStopped at its time limit")
    assert output.startswith("begun\n") and note
    assert ("7 passed" in output) == (kind == "obeys")


@pytest.mark.parametrize("failing", [None, "TESTS", "BENCHMARK"])
def test_benchmark_gets_remaining_time(folder, monkeypatch, failing):
    for name in ("TESTS", "BENCHMARK"):
        code = f"import sys; print(*sys.argv[1:]); sys.exit({name == failing:d})"
        monkeypatch.setattr(gpu_check, name, [sys.executable, "-c", code, name])
    with pytest.raises(SystemExit) as exit_info:
        gpu_check.main(["--device", "cpu", "--minutes", "2", "--out", "out", "--rounds", "3"])
    assert exit_info.value.code == (0 if failing is None else 1)

    tests, benchmark = Path("out/gpu-check.log").read_text().splitlines()
    assert tests == "TESTS"
    options = options_of(None).parse_args(benchmark.split()[1:])
    assert (options.device, options.models, options.rounds) == ("cpu", ["wrn16_8", "resnet20"], 3)
    assert 60 * options.minutes == pytest.approx(120 - gpu_check.STARTING, abs=5)
