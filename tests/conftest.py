"""Fixtures and helpers that many tests share."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sam_bench import plugins
from sam_bench.cli import compose, main
from sam_bench.config.schema import Config
from sam_bench.data import synthetic
from sam_bench.optim.registry import METHODS
from sam_bench.runs import run
from sam_bench.runs.record import MEASURED
from sam_bench.runs.spec import RunSpec
from sam_bench.training import step
from sam_bench.training.averages import Averages
from sam_bench.training.build import build_network

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for determinism; must be set before CUDA is used
os.environ.setdefault("SAM_BENCH_CPU_PRECISION", "fp32")  # what precision=auto means on a CPU

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

#: Overrides that make any run two steps long.
TINY = ["data=synthetic", "data.train_subset=10", "trainer.batch_size=5", "trainer.epochs=1", "trainer.progress=none"]

#: Half precision, with a network of few multiplications: torch's fp16 convolutions are slow on a CPU.
FP16 = ["trainer.precision=fp16", "model=torchvision", "model.arch=mobilenet_v3_small"]


def options(group: str) -> list[str]:
    """Return the names of a config group's files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def network(name: str, *overrides: str) -> torch.nn.Module:
    """Build an untrained network from the configuration, with the classes of the synthetic data."""
    return build_network(compose.compose(["data=synthetic", f"model={name}", *overrides]))


def has_ended(pid: int, within: float = 10.0) -> bool:
    """Return True once a process has ended, reaped or not; False if it still runs after `within` seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def everything_below(folder: Path) -> list[str]:
    """Return the paths of all files and folders in the folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def are_installed(*modules: str) -> bool:
    """Return True if all these modules are installed."""
    try:
        return all(map(importlib.util.find_spec, modules))
    except ModuleNotFoundError:  # the package of a module is not installed
        return False


HAS_BROWSER = all(map(shutil.which, ("chromium", "chromedriver"))) and are_installed("selenium")

#: Why tests with a marker cannot run on this machine; an empty string if they can.
SKIP_REASONS = {
    "browser": "" if HAS_BROWSER else "needs Chromium, its driver and selenium",
    "cuda": "" if torch.cuda.is_available() else "needs a CUDA device",
    "ray": "" if are_installed("ray", "hydra_plugins.hydra_ray_launcher") else "needs Ray and its launcher",
    "slurm": "" if shutil.which("sbatch") and are_installed("submitit") else "needs SLURM and its launcher",
}


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, reason in SKIP_REASONS.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread in each test: tests run in parallel, one per core."""
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Change to an empty folder; return its path."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder, capsys):
    """Return a check that a command refuses arguments with this message, as argparse does, and creates nothing."""

    def check(main: Callable[[list[str]], None], arguments: str, message: str) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments.split())
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
        assert everything_below(folder) == []

    return check


@pytest.fixture
def small_synthetic(monkeypatch):
    """Reduce the synthetic data to 200 training and 20 test images."""
    monkeypatch.setattr(synthetic, "TRAIN", 200)
    monkeypatch.setattr(synthetic, "TEST", 20)


@pytest.fixture
def tiny_run(folder, small_synthetic):
    """Return a function that runs two steps with the given overrides in the current folder; it returns the record."""

    def run_two_steps(*overrides: str) -> dict:
        return execute(compose.compose([*TINY, "trainer.device=cpu", *overrides]))

    return run_two_steps


def execute(config: Config) -> dict:
    """Run a configuration; return the record."""
    return run.run(RunSpec.resolve(config))[0]


@pytest.fixture
def plugins_for_now(monkeypatch):
    """Forget after the test which plug-ins it has loaded."""
    methods = dict(METHODS)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_installed_are_loaded", False)
    yield
    METHODS.clear()
    METHODS.update(methods)


@pytest.fixture
def interrupted(monkeypatch):
    """Return a function that lets this process get a signal in the middle of the given steps.

    Steps are numbered over all runs of a test. In a step of two passes the signal comes in the second one, where the
    weights are perturbed; in a step of one pass it comes at the end.
    """

    def interrupt_in(steps, number: int = signal.SIGTERM) -> None:
        take_step, compute_loss, after_step = step.Step.__call__, step.batch_loss, Averages.after_step
        step_numbers = itertools.count()
        is_due, passes = False, 0

        def counted_step(self, batch):
            nonlocal is_due, passes
            is_due, passes = next(step_numbers) in steps, 0
            take_step(self, batch)

        def counted_loss(*arguments):
            nonlocal passes
            passes += 1
            if is_due and passes == 2:
                os.kill(os.getpid(), number)
            return compute_loss(*arguments)

        def end_of_step(self):
            if is_due and passes == 1:
                os.kill(os.getpid(), number)
            after_step(self)

        monkeypatch.setattr(step.Step, "__call__", counted_step)
        monkeypatch.setattr(step, "batch_loss", counted_loss)
        monkeypatch.setattr(Averages, "after_step", end_of_step)

    return interrupt_in


def last_checkpoint(folder: Path, run_id: str, experiment: str = "default") -> dict:
    """Load the newest checkpoint of a run in the folder."""
    path = max((folder / "runs" / experiment / run_id).glob("checkpoint-*.pt"))
    return torch.load(path, weights_only=True)


def lasting(state):
    """Return a record or a checkpoint without times and memory, which differ between equal runs."""
    if isinstance(state, dict):
        return {key: lasting(value) for key, value in state.items() if key not in MEASURED}
    return [lasting(value) for value in state] if isinstance(state, (list, tuple)) else state


def differences(a, b, place: str = "") -> list[str]:
    """Return the places where two nested structures are not equal, with tensors compared bit for bit."""
    if type(a) is not type(b):
        return [f"{place}: {a!r} and {b!r}"]

    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{place}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [text for key in a for text in differences(a[key], b[key], f"{place}.{key}")]

    if isinstance(a, list):
        if len(a) != len(b):
            return [f"{place}: {len(a)} and {len(b)} items"]
        return [text for i, pair in enumerate(zip(a, b, strict=True)) for text in differences(*pair, f"{place}[{i}]")]

    if isinstance(a, torch.Tensor):
        equal = a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
        return [] if equal else [f"{place}: tensors that differ"]

    both_nan = a != a and b != b
    return [] if a == b or both_nan else [f"{place}: {a!r} and {b!r}"]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.fixture
def command(folder, monkeypatch, capfd):
    """Return a function that runs the command line here; it returns exit code, standard output and standard error."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command line sets it; this restores it after the test

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sam_bench", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main.main()
        except SystemExit as error:
            code = error.code
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def records(folder):
    """Return a function that reads an experiment's records in the current folder, by run id."""

    def read(experiment: str) -> dict[str, dict]:
        paths = (folder / "results" / experiment / "records").glob("*.json")
        return {path.stem: json.loads(path.read_text()) for path in paths}

    return read
