"""What became of the runs of a sweep, wherever they ran: a file each in the sweep's folder, a summary at the end."""

import contextlib
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sam_bench.store.files import write_atomically

STATUSES = ("finished", "skipped", "diverged", "failed", "unfinished")
"""Finished now; finished before; diverged now; ended in an error; without an end: interrupted, killed, not begun."""


@dataclass(frozen=True)
class Outcome:
    """Of one run.

    Args:
        title: its name, or what was asked for where it did not get so far.
        message: the error, for one that failed.
    """

    title: str
    status: str
    message: str = ""


class Sweep:
    """The runs of one command.

    Args:
        folder: shared by all processes of the sweep.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def note(self, number: int, outcome: Outcome) -> None:
        """Keep the outcome of the run of this number."""
        write_atomically(self._path(number), json.dumps(asdict(outcome), ensure_ascii=False).encode())

    def outcomes(self, titles: list[str] | None) -> list[Outcome]:
        """Of all runs, in their order: unfinished are those of which nothing is known. Without titles, of the known."""
        if titles is None:
            return [self._read(path) for path in sorted(self.folder.glob("outcome-*.json"))]
        found = [(self._path(number), title) for number, title in enumerate(titles)]
        return [self._read(path) if path.exists() else Outcome(title, "unfinished") for path, title in found]

    def stop(self) -> None:
        """Let no more of its runs begin."""
        write_atomically(self._stopped, b"")

    @property
    def stopped(self) -> bool:
        return self._stopped.exists()

    @contextlib.contextmanager
    def handing_on(self) -> Iterator[None]:
        """While worker processes of this one train: signals are for them, and they save what they have."""

        def hand_on(number: int, frame: object) -> None:
            self.stop()
            for process in multiprocessing.active_children():
                os.kill(process.pid, number)
            signal.signal(number, earlier[number])  # a second signal ends this process

        earlier = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    @staticmethod
    def _read(path: Path) -> Outcome:
        return Outcome(**json.loads(path.read_text()))

    @property
    def _stopped(self) -> Path:
        return self.folder / "stopped"

    def _path(self, number: int) -> Path:
        return self.folder / f"outcome-{number}.json"


def summary(outcomes: list[Outcome]) -> str:
    """How many runs came to which end, and each of those that came to none."""
    counts = Counter(outcome.status for outcome in outcomes)
    shown = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status] or status != "unfinished")
    lines = [f"{len(outcomes)} run{'s' if len(outcomes) != 1 else ''}: {shown}"]
    open_ends = [outcome for outcome in outcomes if outcome.status in ("diverged", "failed", "unfinished")]
    lines += [f"  {each.status:<11}{each.title}{each.message and ': '}{each.message}" for each in open_ends]
    return "\n".join(lines)
