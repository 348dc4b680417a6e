"""Tests of checkpoints: when they are saved, and that a damaged one or a kill while saving loses nothing else."""

import dataclasses
import errno
import signal
from pathlib import Path

import pytest
import torch

from sam_bench.errors import Interrupted, StateError
from sam_bench.runs import run
from sam_bench.runs.checkpoint import Checkpoints
from tests.conftest import differences, everything_below, last_checkpoint, lasting
from tests.forked import Forked
from tests.runs.faults import DAMAGES, SAVING, SHORT, damage, fail_fsync, run_until_killed

#: Settings that let an undisturbed run have its files in a folder of its own.
UNDISTURBED = ["paths.runs=undisturbed", "paths.results=undisturbed"]


def test_checkpoints_follow_epochs_and_minutes(tiny_run, folder, monkeypatch):
    save, moments = Checkpoints.save, []  # epoch and position of each checkpoint
    monkeypatch.setattr(Checkpoints, "save", lambda self, *at: moments.append(at[:2]) or save(self, *at))
    never = "trainer.checkpoint_minutes=null"

    tiny_run(*SHORT, "trainer.checkpoint_every=2", never)
    assert moments == [(2, 0), (3, 0)]

    moments.clear()
    tiny_run(*SHORT, "seed=1", "trainer.checkpoint_every=null", never)
    assert moments == [(3, 0)]

    moments.clear()
    record = tiny_run(*SHORT, "seed=2", "trainer.checkpoint_every=null", "trainer.checkpoint_minutes=1e-9")
    assert moments == sorted([(e, p) for e in range(3) for p in (1, 2, 3, 4)] + [(1, 0), (2, 0), (3, 0)])
    kept = sorted(path.name[:23] for path in (folder / "runs" / "default" / record["run_id"]).glob("*.pt"))
    assert kept == ["checkpoint-00002-000004", "checkpoint-00003-000000"]


def test_users_file_among_checkpoints_is_kept(tiny_run, folder, interrupted):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*SHORT, "trainer.checkpoint_every=1")
    (checkpoints,) = {path.parent for path in folder.rglob("checkpoint-*.pt")}
    users_file = checkpoints / "checkpoint-best.pt"
    users_file.write_text("the user's")

    tiny_run(*SHORT, "trainer.checkpoint_every=1")
    assert users_file.read_text() == "the user's"
    assert len(list(checkpoints.glob("*.pt"))) == 3


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_falls_back_to_older(tiny_run, folder, interrupted, capsys, kind):
    undisturbed = tiny_run(*SHORT, *UNDISTURBED)

    interrupted({2, 5})
    for _ in range(2):
        with pytest.raises(Interrupted):
            tiny_run(*SHORT)
    older, newest = sorted((folder / "runs").rglob("*.pt"))
    damaged = damage(newest, kind, folder / "executed")

    record = tiny_run(*SHORT, "trainer.progress=plain")
    captured = capsys.readouterr()

    assert f"{damaged.name} " in captured.err
    assert DAMAGES[kind] in captured.err
    assert f"resumes from {older.name}" in captured.err
    assert "continues from epoch 0, step 3" in captured.out
    assert damaged.with_name(f"{damaged.name}.unusable").exists()
    assert not (folder / "executed").exists()
    assert lasting(record) == lasting(undisturbed)


@pytest.mark.parametrize("kind", DAMAGES)
def test_only_checkpoint_damaged_is_refused(tiny_run, folder, interrupted, kind):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*SHORT)
    (checkpoint,) = (folder / "runs").rglob("*.pt")
    damage(checkpoint, kind, folder / "executed")
    before = [name for name in everything_below(folder) if name.endswith(".pt")]

    with pytest.raises(StateError, match=f"{DAMAGES[kind]}.*No other checkpoint is left"):
        tiny_run(*SHORT)
    assert [name for name in everything_below(folder) if name.endswith(".pt")] == before
    assert not (folder / "results").exists()
    assert not (folder / "executed").exists()


def test_checkpoint_of_other_data_is_refused(tiny_run, folder, interrupted, monkeypatch):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*SHORT)

    load = run.load_data
    monkeypatch.setattr(run, "load_data", lambda config: dataclasses.replace(load(config), sha256="other"))
    with pytest.raises(StateError, match="other data"):
        tiny_run(*SHORT)


def train_until_killed(saving: str, folder: Path) -> None:
    """Run in another process that is killed when saving calls this function for the seventh time."""
    process = Forked(run_until_killed, saving, *SHORT, "trainer.checkpoint_minutes=1e-9", cwd=folder)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


@pytest.mark.parametrize("saving", SAVING)
def test_kill_while_saving_resumes_bit_for_bit(tiny_run, folder, saving):
    undisturbed = tiny_run(*SHORT, *UNDISTURBED)

    train_until_killed(saving, folder)
    partial_files = [path for path in (folder / "runs").rglob(".checkpoint-*") if path.is_file()]
    assert len(partial_files) == (saving != "sync_folder")

    record = tiny_run(*SHORT)
    assert lasting(record) == lasting(undisturbed)
    assert not [path for path in (folder / "runs").rglob(".*") if path.is_file()]


def test_several_faults_resume_bit_for_bit(tiny_run, folder, interrupted):
    undisturbed = tiny_run(*SHORT, *UNDISTURBED)
    expected = torch.load(max((folder / "undisturbed").rglob("*.pt")), weights_only=True)

    # A full disk.
    with pytest.MonkeyPatch.context() as patch:
        fail_fsync(patch, errno.ENOSPC, after=4)
        with pytest.raises(StateError):
            tiny_run(*SHORT, "trainer.checkpoint_minutes=1e-9")

    # A damaged checkpoint, and a signal.
    damage(max((folder / "runs").rglob("*.pt")), "truncated", folder / "executed")
    interrupted({1})
    with pytest.raises(Interrupted):
        tiny_run(*SHORT)

    # A kill.
    train_until_killed("os.fsync", folder)

    assert lasting(tiny_run(*SHORT)) == lasting(undisturbed)
    assert differences(lasting(last_checkpoint(folder, undisturbed["run_id"])), lasting(expected)) == []
