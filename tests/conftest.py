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

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product on CUDA, for deterministic runs
os.environ.setdefault("SAM_BENCH_CPU_PRECISION", "fp32")  # what auto is in tests, on every machine
ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TINY = ["data=synthetic", "data.train_subset=10", "trainer.batch_size=5", "trainer.epochs=1", "trainer.progress=none"]
"""Overrides that make any run two steps long."""

FP16 = ["trainer.precision=fp16", "model=torchvision", "model.arch=mobilenet_v3_small"]
"""Half precision, in a network of few multiplications: torch's convolutions take their time over it on a CPU."""


def options(group: str) -> list[str]:
    """The names of a config group's files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def network(name: str, *overrides: str) -> torch.nn.Module:
    """A network of the configuration, as it is before training, for the generated set's classes."""
    return build_network(compose.compose(["data=synthetic", f"model={name}", *overrides]))


def has_ended(pid: int, within: float = 10.0) -> bool:
    """Whether a process has ended, reaped or not, or does so within as many seconds: a signal takes its time."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def found(*modules: str) -> bool:
    """Whether all these modules are installed."""
    try:
        return all(map(importlib.util.find_spec, modules))
    except ModuleNotFoundError:  # of the package that one would be in
        return False


BROWSER = all(map(shutil.which, ("chromium", "chromedriver"))) and found("selenium")
ABSENT = {
    "browser": "" if BROWSER else "there is no Chromium with its driver, or no selenium",
    "cuda": "" if torch.cuda.is_available() else "there is no CUDA device",
    "ray": "" if found("ray", "hydra_plugins.hydra_ray_launcher") else "Ray's launcher is not installed",
    "slurm": "" if shutil.which("sbatch") and found("submitit") else "there is no SLURM",
}
"""By marker, why its tests cannot run here."""


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, reason in ABSENT.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side, one a core."""
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder, capsys):
    """Holds a command to refusing arguments: in so many words, as argparse does, and before anything is created."""

    def check(main: Callable[[list[str]], None], arguments: str, said: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments.split())
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
        assert everything_below(folder) == []

    return check


@pytest.fixture
def small_synthetic(monkeypatch):
    """The generated set in a size that any network gets through."""
    monkeypatch.setattr(synthetic, "TRAIN", 200)
    monkeypatch.setattr(synthetic, "TEST", 20)


@pytest.fixture
def tiny_run(folder, small_synthetic):
    """Runs two steps with the given overrides in the current folder; returns the record."""

    def tiny(*overrides: str) -> dict:
        return execute(compose.compose([*TINY, "trainer.device=cpu", *overrides]))

    return tiny


def execute(config: Config) -> dict:
    """The record of a run."""
    return run.run(RunSpec.resolve(config))[0]


@pytest.fixture
def plugins_for_now(monkeypatch):
    """What a test takes up of plug-ins, the next one does not know."""
    known = dict(METHODS)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_installed_are_loaded", False)
    yield
    METHODS.clear()
    METHODS.update(known)


@pytest.fixture
def interrupted(monkeypatch):
    """Sends this process a signal in the midst of the steps with the given numbers, counted over all runs."""

    def arrange(steps, number: int = signal.SIGTERM) -> None:
        take, loss, steps_begun, passes = step.Step.__call__, step.batch_loss, itertools.count(), []

        def one_step(self, batch):
            passes[:] = [next(steps_begun) in steps]
            take(self, batch)

        def one_loss(*arguments):
            passes.append(None)
            if passes[0] and len(passes) == 3:  # of two passes the second, where the weights are perturbed
                os.kill(os.getpid(), number)
            return loss(*arguments)

        def end(self):
            if passes[0] and len(passes) == 2:
                os.kill(os.getpid(), number)
            after_step(self)

        after_step = Averages.after_step
        monkeypatch.setattr(step.Step, "__call__", one_step)
        monkeypatch.setattr(step, "batch_loss", one_loss)
        monkeypatch.setattr(Averages, "after_step", end)

    return arrange


def last_checkpoint(folder: Path, run_id: str, experiment: str = "default") -> dict:
    """The newest checkpoint of a run in the folder."""
    path = max((folder / "runs" / experiment / run_id).glob("checkpoint-*.pt"))
    return torch.load(path, weights_only=True)


def lasting(state):
    """A record or a checkpoint without what differs between two equal runs: times and memory."""
    if isinstance(state, dict):
        return {key: lasting(value) for key, value in state.items() if key not in MEASURED}
    return [lasting(value) for value in state] if isinstance(state, (list, tuple)) else state


def differences(a, b, place: str = "") -> list[str]:
    """Where two nested structures are not equal, tensors bit for bit."""
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
    return [] if a == b or (a != a and b != b) else [f"{place}: {a!r} and {b!r}"]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.fixture
def command(folder, monkeypatch, capfd):
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # set by the command line itself; restored after the test

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sam_bench", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def records(folder):
    """The records that runs left in the current folder, by run id."""

    def read(experiment: str) -> dict[str, dict]:
        paths = (folder / "results" / experiment / "records").glob("*.json")
        return {path.stem: json.loads(path.read_text()) for path in paths}

    return read
