"""Checkpoints of a run: tensors and plain values, never code. A digest in each file's name verifies its content."""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sam_bench.errors import StateError
from sam_bench.runs.files import sweep_temporary, write_atomically

#: Version of the format, raised by changes after which an older sam_bench cannot read a checkpoint.
FORMAT = 1

#: Number of checkpoints of a run that are kept, the newest ones.
KEPT = 2

#: A checkpoint's name: epochs done, steps done after these, and the first 16 hex digits of the content's SHA-256.
NAME = re.compile(r"checkpoint-(\d+)-(\d+)-([0-9a-f]{16})\.pt")


class Checkpoints:
    """The checkpoints of one run, in its folder; `torch.load(path, weights_only=True)` reads them.

    Args:
        tell: called with a message about each file that cannot be used.
    """

    def __init__(self, folder: Path, run_id: str, tell: Callable[[str], None]):
        self.folder = folder
        self.run_id = run_id
        self.tell = tell

    def save(self, epoch: int, position: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint, whole or not at all, then delete all but the newest two.

        Args:
            epoch, position: epochs done, and steps done after these.

        Raises:
            StateError: the checkpoint cannot be written; earlier ones are unchanged.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "run_id": self.run_id, **state}, buffer)
        content = buffer.getbuffer()
        path = self.folder / f"checkpoint-{epoch:05d}-{position:06d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_atomically(path, content)

        earlier = [other for other in self.paths() if NAME.fullmatch(other.name) and other != path]
        for old in earlier[KEPT - 1 :]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the state in the newest usable checkpoint, its tensors on the CPU; None if there is no checkpoint.

        Newer files that cannot be used are reported and renamed. Temporary files of killed writers are deleted.

        Raises:
            StateError: there are checkpoints, and none of them can be used; they are left in place.
        """
        sweep_temporary(self.folder, "checkpoint-")

        unusable: dict[Path, StateError] = {}
        for path in self.paths():
            try:
                state = self._read(path)
            except StateError as error:
                unusable[path] = error
                continue

            # Renamed only now that another one can be used: a run must never start from scratch by itself.
            for bad, error in unusable.items():
                with contextlib.suppress(OSError):
                    bad.rename(bad.with_name(f"{bad.name}.unusable"))
                self.tell(f"{error}. It is renamed to {bad.name}.unusable, and the run resumes from {path.name}")
            return state

        if unusable:
            reasons = "; ".join(map(str, unusable.values()))
            raise StateError(f"{reasons}. No other checkpoint is left: move these away to start from scratch")
        return None

    def paths(self) -> list[Path]:
        """Return all files that are named as checkpoints, the newest first."""
        paths = self.folder.glob("checkpoint*.pt")
        return sorted(paths, key=lambda path: (_epoch_and_position(path), path.stat().st_mtime_ns), reverse=True)

    def _read(self, path: Path) -> dict[str, Any]:
        """Return the state in a checkpoint.

        Raises:
            StateError: the file cannot be read, is damaged or no checkpoint, is in a newer format, or belongs to
                another run.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read ({error.strerror})") from error

        name = NAME.fullmatch(path.name)
        if name is None or hashlib.sha256(content).hexdigest()[:16] != name[3]:
            raise StateError(f"{path} is damaged, or is no checkpoint (its SHA-256 is not the one in its name)")

        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            version = int(state["format"])
            owner = state["run_id"]
        except Exception as error:  # a file that is no checkpoint can fail in any way
            raise StateError(f"{path} is no checkpoint ({type(error).__name__})") from error
        if version > FORMAT:
            raise StateError(f"{path} was written by a newer sam_bench (format {version}, not {FORMAT}): update")
        if owner != self.run_id:
            raise StateError(f"{path} belongs to the run {owner}, not {self.run_id}")
        return state


def _epoch_and_position(path: Path) -> tuple[int, int]:
    """Return the epochs and steps in a checkpoint's name; (-1, -1) for a name of another form, to sort it last."""
    name = NAME.fullmatch(path.name)
    return (int(name[1]), int(name[2])) if name else (-1, -1)
