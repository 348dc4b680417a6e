"""Output streams whose failure does not end the program: a run is worth more than its messages."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class LossyStream:
    """A text stream that drops what can no longer be written.

    Writing fails when a terminal closes, the reader of a pipe ends, or the disk is full. After the first failure the
    stream's file descriptor is `/dev/null`, so that child processes and the interpreter's last flush do not fail
    either. Characters that the stream's encoding does not have are escaped.

    Args:
        stream: such as `sys.stdout`; None, as in a program without standard streams, drops everything.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not every stream can be reconfigured
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text, or drop it if that fails; return its length."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._redirect_to_null()
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or drop its buffer if that fails."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._redirect_to_null()

    def _redirect_to_null(self) -> None:
        """Point the stream's file descriptor at `/dev/null`."""
        with contextlib.suppress(OSError, ValueError):  # not every stream has a file descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """Let `sys.stdout` and `sys.stderr` fail without an error inside this context."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, LossyStream):
            setattr(sys, name, LossyStream(stream))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
