"""Processes and what they have started, which outlives them if nobody ends it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it, itself first; without Linux's /proc only itself."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            _, parent, *_ = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def kill_trees(pids: Iterable[int]) -> None:
    """Kill processes and all that descend from them; those that have ended are left out.

    Each is halted first, so that none starts another meanwhile.
    """
    roots = list(pids)
    halted = set()
    while found := {each for root in roots for each in tree(root)} - halted:
        _send(found, signal.SIGSTOP)
        halted |= found
    _send(halted, signal.SIGKILL)


@contextlib.contextmanager
def ending(process: subprocess.Popen, seconds: float) -> Iterator[None]:
    """Where a process is told to end: it has so many seconds for it, then what is left of it and its own is killed."""
    started = tree(process.pid)
    yield
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill_trees(started)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
