"""A short run, and faults that it meets: damaged checkpoints, failing disks, kills, interruptions and NaN."""

import hashlib
import io
import itertools
import os
import pickle
import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import torch

from sam_bench.cli import compose
from sam_bench.data import synthetic
from sam_bench.data.batches import Batches
from sam_bench.errors import Interrupted
from sam_bench.runs import checkpoint, files
from tests.conftest import execute
from tests.damage import FolderCreator, flip_bit

#: Three epochs of four steps; the fourth step's batch is smaller.
SHORT = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]

#: Arguments of the command line for such a run.
COMMAND = ["data=synthetic", *SHORT, "experiment=smoke", "trainer.progress=plain"]


# Checkpoints

#: Kinds of damage, and key words of the message about each.
DAMAGES = {
    "truncated": "damaged",
    "emptied": "damaged",
    "one flipped bit": "damaged",
    "foreign": "is no checkpoint",
    "malicious": "is no checkpoint",
    "future": "newer sam_bench",
    "of another run": "belongs to the run another",
}


def damage(path: Path, kind: str, executed: Path) -> Path:
    """Damage a checkpoint, or put another file in its place; return the file's path.

    Args:
        executed: folder that a malicious file would create.
    """
    content = path.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "emptied": b"",
        "one flipped bit": flip_bit(content, len(content) // 2),
    }
    if kind in damaged:
        path.write_bytes(damaged[kind])
        return path

    # The name holds the checksum of the new content, so another check must refuse it.
    content = _foreign_content(kind, executed)
    moment = path.name.rpartition("-")[0]
    replacement = path.with_name(f"{moment}-{hashlib.sha256(content).hexdigest()[:16]}.pt")
    path.unlink()
    replacement.write_bytes(content)
    return replacement


def _foreign_content(kind: str, executed: Path) -> bytes:
    """Return the content of a whole file that is no checkpoint of the run."""
    if kind == "foreign":
        return b"not a checkpoint"
    if kind == "malicious":
        return pickle.dumps(FolderCreator(executed))

    buffer = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT + (kind == "future"), "run_id": "another"}, buffer)
    return buffer.getvalue()


# Disks and kills


def fail_fsync(monkeypatch, number: int, after: int) -> None:
    """Let every call of `os.fsync` after the first few fail with this error number."""
    fsync, calls = os.fsync, itertools.count(1)

    def failing_fsync(descriptor):
        if next(calls) > after:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing_fsync)


#: Functions that saving calls, and their owners.
SAVING = {"os.fsync": (os, "fsync"), "sync_folder": (files, "sync_folder"), "Path.replace": (Path, "replace")}


def run_until_killed(saving: str, *overrides: str) -> None:
    """Train until saving calls this function for the seventh time, then die of SIGKILL."""
    owner, name = SAVING[saving]
    function, calls = getattr(owner, name), itertools.count(1)

    def call_or_die(*arguments):
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    torch.set_num_threads(1)
    synthetic.TRAIN, synthetic.TEST = 200, 20
    setattr(owner, name, call_or_die)
    execute(compose.compose(["data=synthetic", "trainer.progress=none", "trainer.device=cpu", *overrides]))


# Interruptions


def run_until_finished(run: Callable[..., dict], *overrides: str) -> tuple[dict, int]:
    """Start a run again after each interruption; return its record and the number of restarts."""
    for restarts in range(100):
        try:
            return run(*overrides), restarts
        except Interrupted:
            torch.manual_seed(restarts)  # a new process would have another state of the generator too
    raise AssertionError("the run never ends")


# Numbers


def put_nan_in_batches(monkeypatch, positions: Collection[int]) -> None:
    """Make the images of these batches of every epoch NaN."""
    epoch = Batches.epoch

    def epoch_with_nan(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            yield replace(batch, images=batch.images * float("nan")) if position in positions else batch

    monkeypatch.setattr(Batches, "epoch", epoch_with_nan)
