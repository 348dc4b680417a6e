"""What a run needs to go on: tensors and plain values, never code; each file checked by the digest in its name."""

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

FORMAT = 1
"""Counts changes after which an older sam_bench cannot read a checkpoint."""

KEPT = 2
"""Checkpoints of a run that are kept, the newest ones."""

NAME = re.compile(r"checkpoint-(\d+)-(\d+)-([0-9a-f]{16})\.pt")
"""Epochs done, steps done after these, and the beginning of the content's SHA-256, as torch.hub names its files."""


class Checkpoints:
    """The checkpoints of one run, in its folder: `torch.load(path, weights_only=True)` reads them.

    Args:
        tell: told of files that cannot be used.
    """

    def __init__(self, folder: Path, run_id: str, tell: Callable[[str], None]):
        self.folder = folder
        self.run_id = run_id
        self.tell = tell

    def save(self, epoch: int, position: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint, whole or not at all, then remove the third newest.

        Args:
            epoch, position: epochs done, and steps done after these.

        Raises:
            StateError: it cannot be written; those before it are as they were.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "run_id": self.run_id, **state}, buffer)
        content = buffer.getbuffer()
        path = self.folder / f"checkpoint-{epoch:05d}-{position:06d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_atomically(path, content)
        ours = [other for other in self.paths() if NAME.fullmatch(other.name) and other != path]
        for old in ours[KEPT - 1 :]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint's state, its tensors on the CPU; None where there is none.

        One that cannot be used is named, and renamed, and the next older one is taken. What killed writers left behind
        is removed.

        Raises:
            StateError: there are checkpoints, and none of them can be used.
        """
        sweep_temporary(self.folder, "checkpoint-")
        unusable: dict[Path, StateError] = {}
        for path in self.paths():
            try:
                state = self._read(path)
            except StateError as error:
                unusable[path] = error
                continue
            for bad, error in unusable.items():
                with contextlib.suppress(OSError):
                    bad.rename(bad.with_name(f"{bad.name}.unusable"))
                self.tell(f"{error}. It is now called {bad.name}.unusable; going on from {path.name}")
            return state
        if unusable:
            reasons = "; ".join(map(str, unusable.values()))
            raise StateError(f"{reasons}. No other checkpoint is left: move them away to start anew")
        return None

    def paths(self) -> list[Path]:
        """All files that are called checkpoints, the newest first."""
        found = self.folder.glob("checkpoint*.pt")
        return sorted(found, key=lambda path: (_moment(path), path.stat().st_mtime_ns), reverse=True)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read ({error.strerror})") from error
        name = NAME.fullmatch(path.name)
        if name is None or hashlib.sha256(content).hexdigest()[:16] != name[3]:
            raise StateError(f"{path} is damaged, or no checkpoint (its content is not what its name says)")
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            form = int(state["format"])
            owner = state["run_id"]
        except Exception as error:  # what is no checkpoint can fail in any way
            raise StateError(f"{path} is no checkpoint ({type(error).__name__})") from error
        if form > FORMAT:
            raise StateError(f"{path} was written by a newer sam_bench (format {form}, not {FORMAT}): update")
        if owner != self.run_id:
            raise StateError(f"{path} belongs to the run {owner}, not {self.run_id}")
        return state


def _moment(path: Path) -> tuple[int, int]:
    name = NAME.fullmatch(path.name)
    return (int(name[1]), int(name[2])) if name else (-1, -1)
