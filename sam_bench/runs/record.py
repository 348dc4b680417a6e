"""The record of a finished run: one JSON file, written last. A run is finished when its record is there."""

import contextlib
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_bench.errors import StateError
from sam_bench.runs.files import sweep_temporary, write_atomically

SCHEMA_VERSION = 1

Record = dict[str, Any]

MEASURED = (
    "train_seconds", "eval_seconds", "analysis_seconds", "seconds", "images_per_second", "peak_memory",
    "peak_memory_bytes",
)  # fmt: skip
"""Entries of records and checkpoints that differ between two runs that are otherwise equal."""

SUMMARY = ("test_error", "best_test_error", "status")
"""Entries of a record that a logger is told when the run has ended."""


class RunFiles:
    """Where a run keeps what it has.

    Args:
        runs, results: the experiment's two folders, of what a run needs while it lasts and of what is kept.
    """

    def __init__(self, runs: Path, results: Path, run_id: str):
        self.run_id = run_id
        self.folder = runs / run_id
        self.lock = runs / f"{run_id}.lock"
        self.failure = self.folder / "failure.txt"
        self.record = results / "records" / f"{run_id}.json"

    def finished(self) -> Record | None:
        """The run's record, if it has one.

        Raises:
            StateError: the record cannot be read.
        """
        return read_record(self.record) if self.record.exists() else None

    def check(self) -> None:
        """Find out whether the run's files can be made; nothing stays.

        Raises:
            StateError: a folder cannot be written, or a file is in its place.
        """
        for folder in (self.folder, self.record.parent):
            place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if not place.is_dir():
                raise StateError(f"{place} is where a folder must be: move it away")
            try:
                tempfile.TemporaryDirectory(dir=place).cleanup()
            except OSError as error:
                reason = f"{place} takes no files ({error.strerror})"
                raise StateError(
                    f"{folder} cannot be made: {reason}; choose other paths.runs and paths.results"
                ) from error

    def finish(self, record: Record) -> Record:
        """Write the record; where another process was faster, its record stays.

        Returns:
            The record as it stands in its file.

        Raises:
            StateError: it cannot be written.
        """
        sweep_temporary(self.record.parent, self.record.name, seconds=3600)  # of the same run in another folder
        if self.finished() is None:
            write_atomically(self.record, as_json(record))
        self.failure.unlink(missing_ok=True)
        return self.finished()

    def fail(self, text: str) -> None:
        """Keep what is to be said of a failure in the run's folder, as far as that can be written to."""
        with contextlib.suppress(StateError):
            write_atomically(self.failure, text.encode())

    def set_aside(self) -> None:
        """Move the record and the run's folder into folders `superseded` beside them, so that the run starts anew."""
        number = 1
        while any(
            (path.parent / "superseded" / f"{number}-{path.name}").exists() for path in (self.record, self.folder)
        ):
            number += 1
        for path in (self.folder, self.record):  # the record last: while it is there, a rerun sets aside again
            if path.exists():
                (path.parent / "superseded").mkdir(exist_ok=True)
                path.rename(path.parent / "superseded" / f"{number}-{path.name}")


def as_json(record: Record) -> bytes:
    """Return the content of a record's file."""
    return (json.dumps(without_nan(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def summary_of(record: Record) -> Record:
    """Return what a logger is told of a run that has ended."""
    return {name: record[name] for name in SUMMARY}


def objective_of(record: Record) -> float:
    """Return what a search for settings minimises: the last epoch's error in percent, infinite if the run diverged.

    Where the run has one average of the weights, as WASAM's, it is the average's error.
    """
    averages = list(record["averaged"].values())
    error = (averages[0] if len(averages) == 1 else record)["test_error"]
    return math.inf if record["status"] != "finished" or error is None else error


def read_record(path: Path) -> Record:
    """A record from its file.

    Raises:
        StateError: it is not a record, or one of a newer version of sam_bench.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema_version"]
        _ = record["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is not the record of a run ({error!r}); move it away to run again") from error
    if version > SCHEMA_VERSION:
        raise StateError(f"{path} was written by a newer sam_bench (schema {version}, not {SCHEMA_VERSION}): update")
    return record


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config with its keys as the command line has them."""
    found = {}
    for key, item in config.items():
        found |= flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {prefix + key: item}
    return found


def without_nan(value: Any) -> Any:
    """The same with None for what is not a finite number: JSON has no other word for it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
