"""Files that are there whole or not at all."""

import json

import pytest

from sam_bench.store import files
from sam_bench.store.record import RunFiles, without_nan


def test_a_write_that_fails_leaves_the_old_content_and_no_traces(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    files.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_a_record_is_valid_json_whatever_the_numbers(tmp_path):
    run = RunFiles(str(tmp_path / "runs"), str(tmp_path / "results"), "mine", "a-run")
    run.finish({"schema_version": 1, "loss": float("nan"), "history": {"loss": [1.0, float("inf")]}})
    text = run.record.read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["history"]["loss"] == [1.0, None]
    assert run.finished()["loss"] is None
    assert without_nan((1, float("-inf"))) == [1, None]
