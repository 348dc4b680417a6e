"""Tests of the command `sync` with W&B itself, in offline mode."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from sam_bench.cli.commands import sync
from sam_bench.loggers import wandb as wandb_logger
from sam_bench.runs.record import summary_of
from tests.cli.commands.sync_files import waiting_files, write_report
from tests.cli.conftest import run_python
from tests.conftest import everything_below
from tests.loggers.wandb_files import stored


@pytest.fixture
def patient_logger(monkeypatch):
    """Let the live logger wait for W&B as long as a busy machine needs."""

    def popen(command: list[str], **options) -> subprocess.Popen:
        program = "from sam_bench.loggers import wandb; wandb.PATIENCE = 600.0; wandb.main()"
        return subprocess.Popen([sys.executable, "-c", program], **options)

    monkeypatch.setattr(wandb_logger, "PATIENCE", 600.0)
    monkeypatch.setattr(wandb_logger, "subprocess", types.SimpleNamespace(**vars(subprocess) | {"Popen": popen}))


def check_report(file: Path) -> None:
    """Check that a file of W&B has the experiment's table, figure and texts."""
    content = stored(file)
    assert (content["id"], content["job_type"], content["group"]) == ("smoke-report", "report", "smoke")
    assert {"report/table.csv", "report/table.md", "report/figures/curves.png"} <= set(content["files"])
    assert (file.parent / "files/report/table.md").read_text() == "# smoke\n"

    ((_, panels),) = content["history"]
    assert (panels["table._type"], panels["figures/curves._type"]) == ("table-file", "image-file")
    table = json.loads((file.parent / "files" / panels["table.path"]).read_text())
    assert table["columns"] == ["method", "settings", "mean"]
    assert table["data"] == [["sgd", None, 57.5], ["sam", "rho=1", None]]


def history_of(record: dict) -> list[tuple[int, dict]]:
    """Return the history that W&B has of a run: the measured values of each epoch, without those that are None."""
    history = [{"epoch": epoch} for epoch in range(1, record["epochs"] + 1)]
    for name, values in record["history"].items():
        for epoch_values, value in zip(history, values, strict=True):
            if value is not None:
                epoch_values[name] = value
    return list(enumerate(history, start=1))


# W&B takes seconds to start, so one test checks the run, the report and the second sync.
def test_sync_writes_what_live_logger_writes(tiny_run, folder, patient_logger, capsys):
    overrides = ["experiment=smoke", "optimizer=sgd", "trainer.epochs=3", "trainer.eval_every=2"]
    record = tiny_run(*overrides, "data.label_noise=0.4", "logger=wandb")
    write_report()
    (live,) = Path().glob("runs/smoke/*/wandb/offline-run-*/*.wandb")

    done = run_python("-m", "sam_bench", "sync", "--experiment", "smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "1 runs synced, 0 synced before; report synced" in done.stdout
    assert "2 files are not uploaded yet. Upload them: wandb sync runs/wandb" in done.stdout

    # The run. Its live file lists the packages that it was trained with, which are not those of the sync.
    run_file, report_file = sorted(waiting_files(), key=lambda path: "report" in path.name)
    content = stored(run_file)
    assert content == stored(live) | {"files": []}
    assert content["config"] == record["config"]
    assert content["summary"].items() >= summary_of(record).items()
    assert content["metrics"] == {"epoch": ("", True), "*": ("epoch", False)}
    assert content["history"] == history_of(record)
    assert ["test_error" in values for _, values in content["history"]] == [False, True, True]
    assert live.with_suffix(".wandb.synced").exists()  # so that only one of the two files is uploaded

    check_report(report_file)

    before = everything_below(folder)
    sync.main(["--experiment", "smoke"])
    assert "0 runs synced, 1 synced before; report unchanged" in capsys.readouterr().out
    assert everything_below(folder) == before
