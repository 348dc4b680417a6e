"""What a run needs to go on: tensors and plain values in one file, never code."""

import io
from pathlib import Path
from typing import Any

import torch

from sam_bench.errors import StateError
from sam_bench.store.files import write_atomically


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path, run_id: str) -> dict[str, Any] | None:
    """A checkpoint's state, its tensors on the CPU; None where there is no checkpoint.

    Raises:
        StateError: it cannot be read, or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        owner = state["run_id"]
    except Exception as error:  # a damaged file can fail in any way
        raise StateError(f"{path} is damaged, or no checkpoint; move it away to start anew") from error
    if owner != run_id:
        raise StateError(f"{path} belongs to the run {owner}, not {run_id}; move it away to start anew")
    return state
