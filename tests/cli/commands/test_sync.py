"""Tests of the command `sync`, with a stand-in for the server of W&B."""

import json
import sys
from pathlib import Path

import pytest

from sam_bench.cli import wandb_sync
from sam_bench.cli.commands import sync as sync_command
from tests.cli.commands.sync_files import waiting_files, write_report
from tests.cli.commands.wandb_server import Server
from tests.conftest import everything_below

RECORDS = Path("results/smoke/records")
NOTES = Path("runs/wandb/synced.json")
HISTORY = {"test_error": [80.0, None, 60.0], "train_loss": [2.0, 1.5, 1.0]}
SUMMARY = {"test_error": 60.0, "best_test_error": 60.0, "status": "finished"}

ONLINE = ("--mode", "online")


def write_record(run_id: str, **changes) -> None:
    record = {"schema_version": 1, "run_id": run_id, "experiment": "smoke", "config": {"seed": 1}, "epochs": 3}
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{run_id}.json").write_text(json.dumps(record | SUMMARY | {"history": HISTORY} | changes))


@pytest.fixture
def server(folder, monkeypatch):
    """Replace wandb by a stand-in, and write records of the runs a and b; return the stand-in's server."""
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server.package())
    monkeypatch.setattr(wandb_sync, "CONFIRMATION", 0.0)
    monkeypatch.setattr(wandb_sync.time, "sleep", server.waits.append)
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "data"))  # else the command sets it for the tests that follow
    write_record("a")
    write_record("b")
    return server


def sync(*options: str) -> None:
    sync_command.main(["--experiment", "smoke", *options])


def error_of_sync(*options: str) -> str:
    """Sync, which must end with an error of one line; return its message."""
    with pytest.raises(SystemExit) as ended:
        sync(*options)
    message = str(ended.value)
    assert message.startswith("Error: ")
    assert "\n" not in message
    return message


# Failures


def test_failed_sync_is_continued(server, capsys):
    server.fails = lambda call, id: (call, id) == ("log", "smoke-b")
    assert error_of_sync(*ONLINE).startswith("Error: W&B failed: ConnectionError: the server says no; ")

    # The server has got a part of b.
    server.fails = lambda call, id: False
    server.runs["sam_bench/smoke-b"]["history"] = [(1, {"epoch": 1})]
    sync(*ONLINE)
    assert "1 runs synced, 1 synced before" in capsys.readouterr().out
    for name in "ab":
        run = server.runs[f"sam_bench/smoke-{name}"]
        assert [step for step, _ in run["history"]] == [1, 2, 3]
        assert (run["state"], run["summary"]) == ("finished", SUMMARY | {"epoch": 3, "train_loss": 1.0})
    assert server.begun == 3

    sync(*ONLINE)
    assert server.begun == 3


def test_file_of_interrupted_sync_is_not_uploaded(server):
    server.fails = lambda call, id: (call, id) == ("finish", "smoke-b")
    error_of_sync()
    assert len(waiting_files()) == 2

    server.fails = lambda call, id: False
    sync()
    assert [path.parent.name for path in waiting_files()] == ["offline-run-1-smoke-a", "offline-run-3-smoke-b"]


def test_unconfirmed_run_is_not_noted(server, monkeypatch):
    monkeypatch.setattr(server, "find", lambda path: Server().find(path))
    assert "smoke-a was sent" in error_of_sync(*ONLINE)
    assert not NOTES.exists()


def test_missing_wandb_is_one_message(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "W&B failed: ModuleNotFoundError" in error_of_sync()


def test_missing_records_are_one_message(folder):
    assert "there are no records in results/smoke/records; run the experiment first" in error_of_sync()
    assert everything_below(folder) == []


def test_damaged_notes_are_refused(server):
    sync()
    NOTES.write_text("{")
    assert "runs/wandb/synced.json is damaged" in error_of_sync()
    assert server.begun == 2


# What was synced before


def test_run_on_server_is_not_sent_again(server, capsys):
    sync(*ONLINE)
    NOTES.unlink()
    server.runs["sam_bench/smoke-b"]["summary"]["test_error"] = 61.0
    assert "Error: b: W&B has different content" in error_of_sync(*ONLINE)
    assert "0 runs synced, 1 synced before" in capsys.readouterr().out
    assert server.begun == 2


def test_changed_record_is_named_and_others_synced(server, capsys):
    sync()
    write_record("a", test_error=59.0)
    write_record("c")
    assert "Error: a: W&B has different content" in error_of_sync()
    assert "1 runs synced, 1 synced before" in capsys.readouterr().out
    assert sorted(path.stem for path in waiting_files()) == ["run-smoke-a", "run-smoke-b", "run-smoke-c"]

    sync("--project", "anew")
    assert server.begun == 6


def test_changed_report_is_synced_again(server, capsys):
    write_report()
    sync()
    sync()
    assert server.begun == 3

    RECORDS.with_name("table.md").write_text("# smoke, anew\n")
    sync()
    assert "0 runs synced, 2 synced before; report synced" in capsys.readouterr().out
    assert [path.parent.name for path in waiting_files()] == [
        "offline-run-1-smoke-a", "offline-run-2-smoke-b", "offline-run-4-smoke-report"
    ]  # fmt: skip


def test_run_sent_during_training_is_left_to_online_sync(server, capsys):
    mirror = Path("runs/smoke/b/wandb/run-1-smoke-b/run-smoke-b.wandb")
    mirror.parent.mkdir(parents=True)
    mirror.touch()
    sync()
    out = capsys.readouterr().out
    assert "1 runs synced, 0 synced before" in out
    assert "1 runs were sent to W&B during training; --mode online adds what is missing there" in out

    # After an online sync, nothing is left to upload.
    sync(*ONLINE)
    assert sorted(server.runs) == ["sam_bench/smoke-a", "sam_bench/smoke-b"]
    assert waiting_files() == []
    sync()
    assert waiting_files() == []
