"""Rename settings in records of earlier versions to their present names.

python scripts/migrate_records.py results/measured/quick/records

A run's ID is a digest of its settings. A renamed setting therefore changes the ID and the name of the record's file.
The record is written under its new name, and the old file is removed. Measurements are not changed. Unfinished runs of
an earlier version start from the beginning.
"""

import copy
import sys
from pathlib import Path
from typing import Any

from sam_bench.errors import StateError
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import Record, as_json, read_record
from sam_bench.runs.spec import digest
from scripts.arguments import errors_as_messages, parser


def migrated(record: Record) -> Record:
    """Return the record with the present names of settings and the ID that follows from them.

    Raises:
        StateError: the record's ID does not match its configuration.
    """
    name, _, old_digest = record["run_id"].rpartition("-")
    record = copy.deepcopy(record)
    config = record["config"]
    hashed_config = copy.deepcopy(config)  # the configuration that the ID is a digest of
    if digest(hashed_config) != old_digest:
        hashed_config["trainer"]["compiled"] = True  # requested, but given up during the run
    if digest(hashed_config) != old_digest:
        raise StateError(
            f"{record['run_id']}: the ID does not match the record's configuration; was it changed by hand?"
        )

    rename(config)
    rename(hashed_config)
    if "last_batch" in record:
        record["drop_last"] = record.pop("last_batch") == "drop"
    record["run_id"] = f"{name}-{digest(hashed_config)}"
    return record


def rename(config: dict[str, Any]) -> None:
    """Rename the settings of a record's configuration to their present names, in place."""
    if config["data"]["split"] == "tune":
        config["data"]["split"] = "val"
    if "factor" in config["schedule"]:
        config["schedule"]["gamma"] = config["schedule"].pop("factor")
    if config["trainer"].pop("last_batch", "keep") == "drop":
        config["trainer"]["drop_last"] = True


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("folder", type=Path, help="folder with the records")
    folder = arguments_parser.parse_args(arguments).folder

    changed = 0
    for path in sorted(folder.glob("*.json")):
        old = read_record(path)
        new = migrated(old)
        if new == old:
            continue

        target = folder / f"{new['run_id']}.json"
        if target != path and target.exists():
            raise StateError(f"{target} already exists: move it or {path.name} away")
        write_atomically(target, as_json(new))
        if target != path:
            path.unlink()
        changed += 1

    print(f"{changed} records were updated in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
