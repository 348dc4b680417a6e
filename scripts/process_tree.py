"""Functions that end a process together with its descendants, which would otherwise outlive it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path


def tree(pid: int) -> list[int]:
    """Return the PIDs of a process and all its descendants, its own first; without Linux's /proc only its own."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has just ended
            _, parent, *_ = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            children.setdefault(int(parent), []).append(int(path.parent.name))

    pids = [pid]
    for member in pids:
        pids += children.get(member, [])
    return pids


def kill_trees(pids: Iterable[int]) -> None:
    """Kill processes and all their descendants; skip those that have already ended.

    All of them are stopped first, so that none can start another process in the meantime.
    """
    roots = list(pids)
    stopped = set()
    while running := {member for root in roots for member in tree(root)} - stopped:
        _send_signal(running, signal.SIGSTOP)
        stopped |= running
    _send_signal(stopped, signal.SIGKILL)


@contextlib.contextmanager
def ending(process: subprocess.Popen, seconds: float) -> Iterator[None]:
    """Give a process that is asked to end in this context some seconds; then kill it and its remaining descendants."""
    pids = tree(process.pid)
    yield
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill_trees(pids)


def _send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
