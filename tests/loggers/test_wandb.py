"""Tests of the W&B logger during a run, with a stand-in for the package, and of its faults."""

import json
import os
import time

import pytest

from sam_bench.loggers import wandb
from sam_bench.training import loop
from tests.conftest import lasting

#: Three epochs, with W&B and without.
PLAIN = ["model=resnet8", "optimizer=sgd", "trainer.epochs=3"]
MIRRORED = [*PLAIN, "logger=wandb"]

#: A stand-in for the package: it writes its calls to a file, and fails as WANDB_FAULT ("dies log") says.
STAND_IN = """
import json, os, sys, time
class Settings:
    def __init__(self, **named): pass
def note(name, value):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps((name, value)) + "\\n")
    kind, _, place = os.environ.get("WANDB_FAULT", "").partition(" ")
    if place == name:
        if kind == "refuses":
            raise ConnectionError("the server says no")
        if kind == "hangs":
            time.sleep(1000)
        if kind == "dies":
            os._exit(9)
class Run:
    starting_step = 0
    summary = type("Summary", (), {"update": lambda self, values: note("summary", values)})()
    def define_metric(self, name, **named): pass
    def log(self, values, step): note("log", values)
    def finish(self, exit_code): note("finish", exit_code)
def init(settings, **named):
    note("init", named)
    return Run()
"""


@pytest.fixture
def wandb_calls(folder, monkeypatch):
    """Install the stand-in for W&B; return a function that reads the calls it received."""
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'fake'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def read_calls() -> list:
        return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]

    return read_calls


def test_wandb_receives_settings_and_results(tiny_run, wandb_calls):
    record = tiny_run(*MIRRORED, "experiment=smoke", "model=resnet8")
    (_, settings), *logged, (_, summary), (_, exit_code) = wandb_calls()

    assert (settings["group"], settings["name"]) == ("smoke", record["run_id"])
    assert settings["id"] == f"smoke-{record['run_id']}"
    assert (settings["resume"], settings["mode"]) == ("allow", "offline")
    assert [values["epoch"] for _, values in logged] == [1, 2, 3]
    assert [values["test_error"] for _, values in logged] == record["history"]["test_error"]
    assert summary["test_error"] == record["test_error"]
    assert exit_code == 0


def test_failed_run_is_marked_in_wandb(tiny_run, wandb_calls, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_run(*MIRRORED)
    assert wandb_calls()[-1] == ["finish", 1]


def test_run_without_logger_calls_no_wandb(tiny_run, wandb_calls, folder):
    assert tiny_run(*PLAIN)["status"] == "finished"
    assert not (folder / "calls.jsonl").exists()


@pytest.mark.parametrize("place", ["init", "log", "finish"])
@pytest.mark.parametrize("kind", ["refuses", "dies", "hangs"])
def test_wandb_fault_costs_only_a_warning(tiny_run, wandb_calls, monkeypatch, capfd, kind, place):
    monkeypatch.setattr(wandb, "PATIENCE", 3.0)
    monkeypatch.setenv("WANDB_FAULT", f"{kind} {place}")
    unmirrored = tiny_run(*PLAIN, "paths.runs=unmirrored", "paths.results=unmirrored")

    began = time.monotonic()
    record = tiny_run(*MIRRORED)
    assert time.monotonic() - began < 3.0 + 3.0

    assert lasting(record) == lasting(unmirrored)
    assert "W&B failed" in capfd.readouterr().err


def test_missing_wandb_costs_only_a_warning(tiny_run, wandb_calls, folder, capfd):
    (folder / "fake" / "wandb.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\")")
    assert tiny_run(*MIRRORED)["status"] == "finished"
    assert "No module named 'wandb'" in capfd.readouterr().err


def test_wandb_without_key_costs_only_a_warning(tiny_run, monkeypatch, capfd, folder):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    began = time.monotonic()
    assert tiny_run(*MIRRORED, "logger.wandb.mode=online")["status"] == "finished"
    assert time.monotonic() - began < wandb.PATIENCE + 5
    assert "W&B failed" in capfd.readouterr().err


def test_real_wandb_writes_offline_run(tiny_run, folder, capfd):
    assert tiny_run(*MIRRORED)["status"] == "finished"
    assert "W&B failed" not in capfd.readouterr().err
    assert list(folder.rglob("offline-run-*/*.wandb"))
