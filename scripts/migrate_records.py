"""Bring records that an earlier version wrote up to the present names of settings.

python scripts/migrate_records.py results/measured/quick/records

A setting that has another name now changes a run's identity, and so the run's id and the name of its file: the record
is written under its new name, and the old file is removed. Figures stay as they are. Unfinished runs of an earlier
version start anew.
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
    """Return the record with today's names, and the id that follows from them.

    Raises:
        StateError: its id does not follow from its configuration.
    """
    name, _, old = record["run_id"].rpartition("-")
    record = copy.deepcopy(record)
    config = record["config"]
    asked = copy.deepcopy(config)  # what the id is made of
    if digest(asked) != old:
        asked["trainer"]["compiled"] = True  # as was asked for, where compiling was given up on the way
    if digest(asked) != old:
        raise StateError(f"{record['run_id']} is not the id of the record's configuration: it was changed by hand")
    rename(config)
    rename(asked)
    if "last_batch" in record:
        record["drop_last"] = record.pop("last_batch") == "drop"
    record["run_id"] = f"{name}-{digest(asked)}"
    return record


def rename(config: dict[str, Any]) -> None:
    """Give settings of a record's configuration today's names."""
    if config["data"]["split"] == "tune":
        config["data"]["split"] = "val"
    if "factor" in config["schedule"]:
        config["schedule"]["gamma"] = config["schedule"].pop("factor")
    if config["trainer"].pop("last_batch", "keep") == "drop":
        config["trainer"]["drop_last"] = True


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("folder", type=Path, help="of the records")
    folder = words.parse_args(arguments).folder
    changed = 0
    for path in sorted(folder.glob("*.json")):
        old = read_record(path)
        new = migrated(old)
        if new == old:
            continue
        target = folder / f"{new['run_id']}.json"
        if target != path and target.exists():
            raise StateError(f"{target} is there already: move it or {path.name} away")
        write_atomically(target, as_json(new))
        if target != path:
            path.unlink()
        changed += 1
    print(f"{changed} records were brought up to date in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
