"""Tests of a run's files, which are written whole or not at all, and never overwritten."""

import errno
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from sam_bench.errors import StateError
from sam_bench.runs import files
from sam_bench.runs.record import RunFiles, without_nan
from tests.conftest import everything_below


def test_failed_write_keeps_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    files.write_atomically(path, b"old")

    def fail_on_full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail_on_full_disk)
    with pytest.raises(StateError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_set_aside_never_overwrites(tmp_path):
    run = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    for number in range(3):
        run.finish({"schema_version": 1, "config": {}, "number": number})
        files.write_atomically(run.folder / "checkpoint.pt", bytes([number]))
        run.set_aside()

    records = sorted((tmp_path / "results" / "records" / "superseded").iterdir())
    assert [json.loads(path.read_text())["number"] for path in records] == [0, 1, 2]
    checkpoints = sorted((tmp_path / "runs" / "superseded").rglob("checkpoint.pt"))
    assert [path.read_bytes() for path in checkpoints] == [b"\0", b"\1", b"\2"]


def test_record_with_nan_is_valid_json(tmp_path):
    run = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    run.finish({"schema_version": 1, "config": {}, "loss": float("nan"), "history": {"loss": [1.0, float("inf")]}})
    text = run.record.read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["history"]["loss"] == [1.0, None]
    assert run.finished()["loss"] is None
    assert without_nan((1, float("-inf"))) == [1, None]


def fail_fsync_of_folders(monkeypatch, number: int) -> None:
    """Let `os.fsync` fail with this error number for folders, but not for files."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_write_succeeds_without_fsync_of_folders(tmp_path, monkeypatch, number):
    fail_fsync_of_folders(monkeypatch, number)
    files.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_write_to_failing_disk_is_refused(tmp_path, monkeypatch):
    fail_fsync_of_folders(monkeypatch, errno.EIO)
    with pytest.raises(StateError, match="power failure"):
        files.write_atomically(tmp_path / "file", b"content")


def test_existing_record_is_kept(tmp_path):
    record = {"schema_version": 1, "config": {}}
    run_files = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    run_files.finish(record | {"by": "the faster one"})
    run_files.finish(record | {"by": "the slower one"})
    assert run_files.finished()["by"] == "the faster one"


def _write_records(folder: Path, number: int) -> None:
    """Write a record with this number, and one that all processes write."""
    record = {"schema_version": 1, "config": {}, "seed": number, "padding": "x" * 10**5}
    for name in (f"run-{number}", "the-same"):
        RunFiles(folder / "runs", folder / "results", name).finish(record)


def test_parallel_finishes_keep_every_record(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.starmap(_write_records, [(tmp_path, number) for number in range(40)], chunksize=1)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").glob("run-*.json")]
    assert sorted(record["seed"] for record in records) == list(range(40))
    assert len(everything_below(tmp_path / "results" / "records")) == 41  # and the one that all wrote
