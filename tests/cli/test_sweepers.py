"""Tests of sweepers that choose runs as they go: they minimise the error on held-out images."""

import importlib.util
import math
import subprocess
from pathlib import Path

import pytest

from sam_bench.cli import main
from sam_bench.runs.record import objective_of
from tests.cli.conftest import SWEEP, run_python

#: A sweeper that tries two radii, and writes the values that it would minimise to a file.
SWEEPER = """
import pathlib
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class TwoSweeper(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        runs = [[*arguments, f"optimizer.rho={rho}"] for rho in (0.01, 0.5)]
        results = self.launcher.launch(runs, initial_job_idx=0)
        pathlib.Path("values.txt").write_text(" ".join(str(float(each.return_value)) for each in results))

target = f"{__name__}.TwoSweeper"
ConfigStore.instance().store("two", {"_target_": target}, "hydra/sweeper", provider="tests")
"""


def sweep_two_radii(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep with `SWEEPER`, which needs a Python of its own to be found by Hydra."""
    package = folder / "plugins" / "hydra_plugins" / "hydra_two_sweeper"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "two.py").write_text(SWEEPER, encoding="utf-8")

    arguments = [*SWEEP, "data.train_subset=100", "hydra/sweeper=two", *overrides]
    return run_python("-m", "sam_bench", *arguments, cwd=folder, packages=folder / "plugins")


def test_sweeper_on_test_set_is_refused(folder):
    done = sweep_two_radii(folder)
    assert done.returncode == main.EXIT_CONFIG
    assert "data.split=val" in done.stderr


def test_sweeper_gets_error_on_held_out_images(folder, records):
    for status in ("finished", "skipped"):
        done = sweep_two_radii(folder, "data.split=val")
        assert done.returncode == 0, done.stderr
        assert f"2 {status}" in done.stdout

        values = [float(value) for value in (folder / "values.txt").read_text(encoding="utf-8").split()]
        errors = {record["config"]["optimizer"]["rho"]: record["test_error"] for record in records("smoke").values()}
        assert values == [errors[0.01], errors[0.5]]


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra optuna")
def test_optuna_minimises_error_on_held_out_images(command, folder, small_synthetic, records):
    overrides = ["data.split=val", "hydra/sweeper=optuna_tpe", "hydra.sweeper.n_trials=3"]
    for _ in range(2):  # the second time all trials are the same, and are skipped
        code, out, error = command(*SWEEP, *overrides, "optimizer.rho=interval(0.01,0.3)")
        assert code == 0, error
    assert len(records("smoke")) == 3
    assert "3 skipped" in out

    (*_, newest) = sorted((folder / "runs" / "sweeps").rglob("optimization_results.yaml"))
    best = min(record["test_error"] for record in records("smoke").values())
    assert f"best_value: {best}" in newest.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("status", "averaged", "objective"),
    [
        ("finished", {}, 10.0),
        ("finished", {"swa": {"test_error": 8.0}}, 8.0),
        ("finished", {"a": {"test_error": 8.0}, "b": {"test_error": 7.0}}, 10.0),
        ("diverged", {}, math.inf),
    ],
)
def test_objective_is_the_error_in_tables(status, averaged, objective):
    assert objective_of({"status": status, "averaged": averaged, "test_error": 10.0}) == objective
