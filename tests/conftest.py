import json
from pathlib import Path

import pytest
import torch

from sam_bench import app, run
from sam_bench.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TINY = ["data=synthetic", "data.train_subset=10", "trainer.batch_size=5", "trainer.epochs=1", "trainer.progress=none"]
"""Overrides that make any run two steps long."""


def options(group: str) -> list[str]:
    """The names of a config group's files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


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
def small_synthetic(monkeypatch):
    """The generated set in a size that any network gets through."""
    monkeypatch.setattr(synthetic, "TRAIN", 200)
    monkeypatch.setattr(synthetic, "TEST", 20)


@pytest.fixture
def tiny_run(folder, small_synthetic):
    """Runs two steps with the given overrides in the current folder; returns the record."""

    def execute(*overrides: str) -> dict:
        return run.execute(app.compose([*TINY, "trainer.device=cpu", *overrides]))

    return execute


@pytest.fixture
def command(folder, monkeypatch, capfd):
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # set by the command line itself; restored after the test

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sam_bench", *arguments])
        capfd.readouterr()
        code = 0
        try:
            app.main()
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
