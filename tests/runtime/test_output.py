"""A program whose output can no longer be written goes on."""

import errno
import io
import sys
from pathlib import Path

import pytest

from sam_bench.runtime.output import lossy_output


class Gone(io.StringIO):
    """A stream that takes so many characters, and then fails."""

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
def test_stream_that_fails_is_given_up(monkeypatch, name, error):
    stream = Gone(error, room=5)
    monkeypatch.setattr(sys, name, stream)
    with lossy_output():
        for _ in range(3):
            print("1234", file=getattr(sys, name), flush=True)
    assert stream.getvalue() == "1234\n" and getattr(sys, name) is stream


def test_full_disk_does_not_fail_the_last_flush(monkeypatch):
    with Path("/dev/full").open("w", encoding="utf-8") as stream:  # which is flushed at the end
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
