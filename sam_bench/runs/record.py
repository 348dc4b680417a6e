"""Records of finished runs: one JSON file per run, written last. A run is finished once its record exists."""

import contextlib
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_bench.errors import StateError
from sam_bench.runs.files import sweep_temporary, write_atomically

#: Version of the record's format, raised by changes after which an older sam_bench cannot read a record.
SCHEMA_VERSION = 1

Record = dict[str, Any]

#: Entries of records and checkpoints that differ between two runs that are otherwise equal.
MEASURED = (
    "train_seconds", "eval_seconds", "analysis_seconds", "seconds", "images_per_second", "peak_memory",
    "peak_memory_bytes",
)  # fmt: skip

#: Entries of a record that loggers are given when the run has ended.
SUMMARY = ("test_error", "best_test_error", "status")


class RunFiles:
    """The paths of a run's files.

    Args:
        runs: the experiment's folder of files that a run needs until it is finished, such as checkpoints.
        results: the experiment's folder of records, which are kept.
    """

    def __init__(self, runs: Path, results: Path, run_id: str):
        self.run_id = run_id
        self.folder = runs / run_id
        self.lock = runs / f"{run_id}.lock"
        self.failure = self.folder / "failure.txt"
        self.record = results / "records" / f"{run_id}.json"

    def finished(self) -> Record | None:
        """Return the run's record; None if the run is not finished.

        Raises:
            StateError: the record cannot be read.
        """
        return read_record(self.record) if self.record.exists() else None

    def check(self) -> None:
        """Check that the run's files can be created, and leave nothing behind.

        Raises:
            StateError: a folder cannot be created or written to, or a file is in its place.
        """
        for folder in (self.folder, self.record.parent):
            nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if not nearest.is_dir():
                raise StateError(f"{nearest} must be a folder, and is a file: move it away")
            try:
                tempfile.TemporaryDirectory(dir=nearest).cleanup()
            except OSError as error:
                reason = f"no file can be created in {nearest} ({error.strerror})"
                raise StateError(
                    f"{folder} cannot be created: {reason}; set paths.runs and paths.results to other folders"
                ) from error

    def finish(self, record: Record) -> Record:
        """Write the record, unless another process has written it already.

        Returns:
            The record, read back from its file.

        Raises:
            StateError: the record cannot be written.
        """
        # Young temporary files stay: the same run, with another paths.runs, may be writing its record just now.
        sweep_temporary(self.record.parent, self.record.name, seconds=3600)
        if self.finished() is None:
            write_atomically(self.record, as_json(record))
        self.failure.unlink(missing_ok=True)
        return self.finished()

    def fail(self, text: str) -> None:
        """Write a failure's text into the run's folder; do nothing if that fails."""
        with contextlib.suppress(StateError):
            write_atomically(self.failure, text.encode())

    def set_aside(self) -> None:
        """Move the record and the run's folder into folders `superseded` beside them, for a start from scratch."""
        number = 1
        while any(
            (path.parent / "superseded" / f"{number}-{path.name}").exists() for path in (self.record, self.folder)
        ):
            number += 1

        # The record goes last: if this is interrupted, the record makes the next rerun set aside the rest.
        for path in (self.folder, self.record):
            if path.exists():
                (path.parent / "superseded").mkdir(exist_ok=True)
                path.rename(path.parent / "superseded" / f"{number}-{path.name}")


def as_json(record: Record) -> bytes:
    """Return a record as the content of its JSON file; NaN and infinity become null."""
    return (json.dumps(without_nan(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def summary_of(record: Record) -> Record:
    """Return the entries of a record that loggers are given when the run has ended."""
    return {name: record[name] for name in SUMMARY}


def objective_of(record: Record) -> float:
    """Return the value that a search for settings minimises: the last epoch's error in percent; inf if it diverged.

    If the run has exactly one average of the weights, as with WASAM, return the average's error.
    """
    averages = list(record["averaged"].values())
    error = (averages[0] if len(averages) == 1 else record)["test_error"]
    return math.inf if record["status"] != "finished" or error is None else error


def read_record(path: Path) -> Record:
    """Read a record from its file.

    Raises:
        StateError: the file is not a record, or was written by a newer sam_bench.
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
    """Return a nested config as one level, its keys dotted as on the command line."""
    result = {}
    for key, item in config.items():
        result |= flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {prefix + key: item}
    return result


def without_nan(value: Any) -> Any:
    """Return a nested value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
