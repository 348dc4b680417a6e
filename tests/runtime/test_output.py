"""Tests that a program continues when its output can no longer be written."""

import errno
import io
import sys
from pathlib import Path

import pytest

from sam_bench.runtime.output import lossy_output


class FailingStream(io.StringIO):
    """Stream that fails once it has taken a number of characters."""

    def __init__(self, error: Exception, room: int):
        super().__init__()
        self.error, self.room = error, room

    def write(self, text: str) -> int:
        self.room -= len(text)
        if self.room < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, ""), BrokenPipeError(), OSError(errno.ENOSPC, ""), ValueError("closed file")]
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_failing_stream_is_given_up(monkeypatch, name, error):
    stream = FailingStream(error, room=5)
    monkeypatch.setattr(sys, name, stream)
    with lossy_output():
        for _ in range(3):
            print("1234", file=getattr(sys, name), flush=True)
    assert stream.getvalue() == "1234\n" and getattr(sys, name) is stream


def test_last_flush_survives_full_disk(monkeypatch):
    with Path("/dev/full").open("w", encoding="utf-8") as stream:  # closing it flushes it
        monkeypatch.setattr(sys, "stdout", stream)
        with lossy_output():
            print("lost")


def test_missing_stream_is_dropped(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with lossy_output():
        print("lost", flush=True)
        assert not sys.stdout.isatty()


def test_characters_without_encoding_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="iso-8859-1"))
    with lossy_output():
        print("ρ ± 1")
    assert raw.getvalue() == b"\\u03c1 \xb1 1\n"


def test_contexts_may_be_nested(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with lossy_output():
        with lossy_output():
            print("in", end="")
        print("out", end="")
    assert stream.getvalue() == "inout" and sys.stdout is stream
