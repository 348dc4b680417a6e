"""Tests of the console, and of loggers that a configuration or a program names."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import yaml

from sam_bench.cli.compose import compose
from sam_bench.loggers.console import Console
from sam_bench.runs.run import run
from sam_bench.runs.spec import RunSpec
from tests.conftest import ROOT, TINY

RUN = [*TINY, "trainer.device=cpu", "model=resnet8", "optimizer=sgd", "trainer.epochs=2"]


class RecordingLogger:
    """Logger that keeps its calls."""

    def __init__(self):
        self.calls = []

    def start(self, run):
        self.calls.append(("start", run.name, run.done, run.steps))

    def log(self, epoch, values):
        self.calls.append(("log", epoch, values["test_error"]))

    def finish(self, summary):
        self.calls.append(("finish", summary))


def test_logger_receives_start_epochs_and_end(folder, small_synthetic):
    logger = RecordingLogger()
    record, _ = run(RunSpec.resolve(compose(RUN)), loggers=[logger])

    errors = record["history"]["test_error"]
    summary = {name: record[name] for name in ("test_error", "best_test_error", "status")}
    assert logger.calls == [
        ("start", record["run_id"], 0, record["steps"]),
        ("log", 1, errors[0]),
        ("log", 2, errors[1]),
        ("finish", summary),
    ]


class FailingLogger(RecordingLogger):
    """Logger that fails when the method of this name is called."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "at"):
            return lambda *_: 1 / 0
        return super().__getattribute__(name)


@pytest.mark.parametrize("at", ["start", "log", "finish"])
def test_failing_logger_costs_only_a_warning(folder, small_synthetic, capsys, at):
    other_logger = RecordingLogger()
    record, _ = run(RunSpec.resolve(compose(RUN)), loggers=[FailingLogger(at), other_logger])

    assert record["status"] == "finished"
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1
    assert [call[0] for call in other_logger.calls] == ["start", "log", "log", "finish"]

    # The run's console is removed.
    messages = logging.getLogger("sam_bench")
    assert messages.level == logging.NOTSET
    assert not any(isinstance(handler, Console) for handler in messages.handlers)


def test_configuration_with_logger_can_be_pickled():
    config = compose([*RUN, "logger=wandb"])
    assert pickle.loads(pickle.dumps(config)) == config


def test_logger_receives_failure(folder, small_synthetic, monkeypatch):
    monkeypatch.setattr("sam_bench.training.loop.evaluate", lambda *_: 1 / 0)
    logger = RecordingLogger()
    with pytest.raises(ZeroDivisionError):
        run(RunSpec.resolve(compose(RUN)), loggers=[logger])
    assert logger.calls[-1] == ("finish", None)


#: A user's logger, which writes lines to the file that its settings name.
USERS_LOGGER = """
from sam_bench.config import fields

class Settings(fields.Settings):
    file: str

class Logger:
    def __init__(self, settings):
        self.file = settings.file
    def start(self, run):
        self.write(run.name)
    def log(self, epoch, values):
        self.write(f"{epoch} {values['test_error']}")
    def finish(self, summary):
        self.write(summary["status"] if summary else "ended")
    def write(self, line):
        with open(self.file, "a") as file:
            file.write(line + "\\n")
"""


def test_module_and_settings_file_make_logger(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "sam_bench", copy / "sam_bench")
    shutil.copytree(ROOT / "conf", copy / "conf")
    (copy / "sam_bench" / "loggers" / "lines.py").write_text(USERS_LOGGER)
    (copy / "conf" / "logger" / "lines.yaml").write_text("# @package logger.lines\nfile: lines.txt\n")

    command = [sys.executable, "-m", "sam_bench", *RUN, "logger=[wandb,lines]", "experiment=smoke"]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    name, *epochs, end = (copy / "lines.txt").read_text().splitlines()
    assert name.startswith("sgd-resnet8")
    assert (len(epochs), end) == (2, "finished")
    assert list(copy.rglob("offline-run-*/*.wandb"))


def test_messages_go_through_logging(folder, small_synthetic, caplog):
    with caplog.at_level(logging.INFO, "sam_bench"):
        record, _ = run(RunSpec.resolve(compose(RUN)))
    texts = [message.getMessage() for message in caplog.records]
    assert any(text.startswith("epoch 2/2") for text in texts)
    assert texts[-1].endswith(f"{record['run_id']}.json")


@pytest.mark.parametrize(("kind", "lines"), [("plain", 4), ("none", 0)])
def test_console_shows_progress_of_its_kind(folder, small_synthetic, capsys, kind, lines):
    run(RunSpec.resolve(compose([*RUN, f"trainer.progress={kind}"])))
    assert len(capsys.readouterr().out.splitlines()) == lines


def test_wandb_agent_trains_proposed_run(folder):
    pytest.importorskip("wandb")
    from tests.loggers.wandb_files import stored  # it imports wandb

    sweep = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    fixed = {name: values["value"] for name, values in sweep["parameters"].items() if "value" in values}
    searched = {name: values["max"] for name, values in sweep["parameters"].items() if "max" in values}
    quick = {"experiment": "smoke", "data": "synthetic", "trainer.epochs": 1, "logger.wandb.mode": "offline"}
    arguments = [f"{name}={value}" for name, value in (fixed | searched | quick).items()]

    # An agent replaces these macros of the sweep's command, and names the run.
    macros = {"${env}": ["/usr/bin/env"], "${interpreter}": [sys.executable], "${args_no_hyphens}": arguments}
    command = [argument for part in sweep["command"] for argument in macros.get(part, [part])]
    agent = {"WANDB_SWEEP_ID": "asweep", "WANDB_RUN_ID": "theagentsrun", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=os.environ | agent, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    (path,) = (folder / "results" / "smoke" / "records").glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["config"]["optimizer"]["rho"] == searched["optimizer.rho"]
    assert record["config"]["data"]["split"] == "val"
    (mirror,) = folder.rglob("offline-run-*/*.wandb")
    assert mirror.name == "run-theagentsrun.wandb"
    assert stored(mirror)["summary"][sweep["metric"]["name"]] == record["test_error"]
