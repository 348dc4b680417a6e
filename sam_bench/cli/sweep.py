"""What became of the runs of a sweep, wherever they ran: a file each in the sweep's folder, a summary at the end."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from sam_bench.runs.files import write_atomically

STATUSES = ("finished", "skipped", "diverged", "failed", "busy", "interrupted", "unfinished")
"""Finished now; finished before; diverged; ended in an error; another process has it; saved on request; without an
outcome: not begun, killed, or still on its way."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Args:
        title: its name, or what was asked for where it did not get so far.
        message: the error of one that failed.
        objective: what a sweeper that chooses settings minimises, in percent; None without a result.
    """

    title: str
    status: str
    message: str = ""
    objective: float | None = None


class Sweep:
    """The runs of one command.

    Args:
        folder: shared by all processes of the sweep.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self) -> None:
        """Forget what an earlier sweep left in this folder, where a user has chosen it."""
        for path in (self._stopped, *self.folder.glob("outcome-*.json")):
            path.unlink(missing_ok=True)

    def note(self, number: int, outcome: Outcome) -> None:
        """Keep the outcome of the run of this number."""
        write_atomically(self._path(number), json.dumps(asdict(outcome), ensure_ascii=False).encode())

    def outcomes(self, titles: list[str] | None) -> list[Outcome]:
        """Return the outcome of every run in launch order, `unfinished` where nothing is known.

        Args:
            titles: one for each run; None returns only the outcomes that are known.
        """
        if titles is None:
            known = self.folder.glob("outcome-*.json")
            return [self._read(path) for path in sorted(known, key=lambda path: int(path.stem.partition("-")[2]))]
        found = [(self._path(number), title) for number, title in enumerate(titles)]
        return [self._read(path) if path.exists() else Outcome(title, "unfinished") for path, title in found]

    def stop(self) -> None:
        """Let no more of its runs begin."""
        write_atomically(self._stopped, b"")

    @property
    def stopped(self) -> bool:
        return self._stopped.exists()

    @staticmethod
    def _read(path: Path) -> Outcome:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))

    @property
    def _stopped(self) -> Path:
        return self.folder / "stopped"

    def _path(self, number: int) -> Path:
        return self.folder / f"outcome-{number}.json"


def summary(outcomes: list[Outcome]) -> str:
    """How many runs came to which end, and each of those that came to none."""
    counts = Counter(outcome.status for outcome in outcomes)
    shown = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status] or status in STATUSES[:4])
    lines = [f"{len(outcomes)} run{'s' if len(outcomes) != 1 else ''}: {shown}"]
    open_ends = [outcome for outcome in outcomes if outcome.status in STATUSES[2:]]
    lines += [f"  {each.status:<12}{each.title}{each.message and ': '}{each.message}" for each in open_ends]
    return "\n".join(lines)
