"""Tests of files, which are written whole or not at all."""

import errno
import json
import os
import stat
import subprocess

import pytest

from sam_bench.errors import StateError
from sam_bench.runs import files
from sam_bench.runs.provenance import git_commit
from sam_bench.runs.record import RunFiles, without_nan


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


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"])
def test_commit_ignores_git_variables(tmp_path, monkeypatch, variable):
    own_commit = git_commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    place = {"GIT_INDEX_FILE": "index", "GIT_OBJECT_DIRECTORY": "objects"}.get(variable, "")
    monkeypatch.setenv(variable, str(tmp_path / ".git" / place))
    assert git_commit() == own_commit
