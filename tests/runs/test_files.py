"""Files that are there whole or not at all."""

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


def test_a_write_that_fails_leaves_the_old_content_and_no_traces(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    files.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_what_is_set_aside_is_never_overwritten(tmp_path):
    run = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    for number in range(3):
        run.finish({"schema_version": 1, "config": {}, "number": number})
        files.write_atomically(run.folder / "checkpoint.pt", bytes([number]))
        run.set_aside()
    old = sorted((tmp_path / "results" / "records" / "superseded").iterdir())
    assert [json.loads(path.read_text())["number"] for path in old] == [0, 1, 2]
    kept = sorted((tmp_path / "runs" / "superseded").rglob("checkpoint.pt"))
    assert [path.read_bytes() for path in kept] == [b"\0", b"\1", b"\2"]


def test_a_record_is_valid_json_whatever_the_numbers(tmp_path):
    run = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    run.finish({"schema_version": 1, "config": {}, "loss": float("nan"), "history": {"loss": [1.0, float("inf")]}})
    text = run.record.read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["history"]["loss"] == [1.0, None]
    assert run.finished()["loss"] is None
    assert without_nan((1, float("-inf"))) == [1, None]


def folders_without_fsync(monkeypatch, number: int) -> None:
    """Let the flush of a folder, but not of a file, fail with this error."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_write_needs_no_fsync_of_folders(tmp_path, monkeypatch, number):
    folders_without_fsync(monkeypatch, number)
    files.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_write_reports_a_disk_that_fails(tmp_path, monkeypatch):
    folders_without_fsync(monkeypatch, errno.EIO)
    with pytest.raises(StateError, match="power failure"):
        files.write_atomically(tmp_path / "file", b"content")


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"])
def test_commit_is_not_of_the_callers_repository(tmp_path, monkeypatch, variable):
    own = git_commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    place = {"GIT_INDEX_FILE": "index", "GIT_OBJECT_DIRECTORY": "objects"}.get(variable, "")
    monkeypatch.setenv(variable, str(tmp_path / ".git" / place))
    assert git_commit() == own
