"""Outcomes of a sweep's runs: one file per run in the sweep's folder, so that any machine can write it."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from sam_bench.runs.files import write_atomically

#: "finished": by this command. "skipped": finished before. "failed": ended in an error. "busy": another process has
#: the run. "interrupted": asked to end, with a checkpoint. "unfinished": not started, killed, or still running.
STATUSES = ("finished", "skipped", "diverged", "failed", "busy", "interrupted", "unfinished")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Args:
        title: the run's name, or its overrides if it failed before it had a name.
        status: one of `STATUSES`.
        message: the error of a failed run.
        objective: the error that a sweeper minimises, in percent; None without a result.
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
        """Delete what an earlier sweep left in this folder, if the user chose the same one again."""
        for path in (self._stop_file, *self.folder.glob("outcome-*.json")):
            path.unlink(missing_ok=True)

    def write_outcome(self, number: int, outcome: Outcome) -> None:
        """Write the outcome of the run with this number."""
        write_atomically(self._path(number), json.dumps(asdict(outcome), ensure_ascii=False).encode())

    def outcomes(self, titles: list[str] | None) -> list[Outcome]:
        """Return the outcome of every run in launch order; a run without one is "unfinished".

        Args:
            titles: one for each run. None returns only the outcomes that were written.
        """
        if titles is None:
            paths = self.folder.glob("outcome-*.json")
            return [self._read(path) for path in sorted(paths, key=lambda path: int(path.stem.partition("-")[2]))]
        runs = [(self._path(number), title) for number, title in enumerate(titles)]
        return [self._read(path) if path.exists() else Outcome(title, "unfinished") for path, title in runs]

    def stop(self) -> None:
        """Ask the runs to end, and let no more of them start."""
        write_atomically(self._stop_file, b"")

    @property
    def stopped(self) -> bool:
        return self._stop_file.exists()

    @staticmethod
    def _read(path: Path) -> Outcome:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))

    @property
    def _stop_file(self) -> Path:
        return self.folder / "stopped"

    def _path(self, number: int) -> Path:
        return self.folder / f"outcome-{number}.json"


def summary(outcomes: list[Outcome]) -> str:
    """Return the number of runs of each status, and a line for each run that did not finish."""
    counts = Counter(outcome.status for outcome in outcomes)
    shown = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status] or status in STATUSES[:4])
    lines = [f"{len(outcomes)} run{'s' if len(outcomes) != 1 else ''}: {shown}"]
    listed = [outcome for outcome in outcomes if outcome.status in STATUSES[2:]]
    lines += [f"  {each.status:<12}{each.title}{each.message and ': '}{each.message}" for each in listed]
    return "\n".join(lines)
