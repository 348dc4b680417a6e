"""Helpers that several tests of the command line share."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import ROOT, TINY

#: The beginning of a sweep of runs that are two steps long.
SWEEP = ["-m", *TINY, "experiment=smoke"]


def python_environment(packages: Path | None = None) -> dict[str, str]:
    """Return the environment of a Python that imports this checkout's package, and uses one thread.

    Args:
        packages: a further folder to import from.
    """
    folders = [str(folder) for folder in (packages, ROOT) if folder is not None]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}


def run_python(*arguments: str, cwd: Path, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments; return its exit code and its output as text."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=python_environment(packages), capture_output=True, text=True)


@contextlib.contextmanager
def sigterm_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Send this process SIGTERM once the condition holds, or after a minute; the block ends after that."""

    def wait_and_send() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=wait_and_send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
