"""What W&B's offline files hold, read back: records of its protocol in the format of a LevelDB log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER = 7
"""Bytes before the log, and before each part of a record: checksum, length in two bytes, kind."""
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Kinds of parts."""


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """The records of a `.wandb` file, in their order."""
    content = path.read_bytes()
    place = HEADER
    parts = []
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # what is left of a block takes no header
            place += BLOCK - place % BLOCK
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        parts.append(content[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def stored(path: Path) -> dict[str, Any]:
    """What a file says of its run, without W&B's own keys, which begin with an underscore, and without times."""
    found: dict[str, Any] = {"history": [], "summary": {}, "metrics": {}, "files": []}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "job_type": run.job_type}
            found |= {"project": run.project, "entity": run.entity, "config": _values(run.config.update)}
        elif kind == "history":
            found["history"].append((record.history.step.num, _values(record.history.item)))
        elif kind == "summary":
            found["summary"] |= _values(record.summary.update)
        elif kind == "metric":
            metric = record.metric
            found["metrics"][metric.name or metric.glob_name] = (metric.step_metric, metric.options.hidden)
        elif kind == "files":
            found["files"] += [file.path for file in record.files.files]
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    return found


def _values(items: Any) -> dict[str, Any]:
    pairs = [(item.key or ".".join(item.nested_key), json.loads(item.value_json)) for item in items]
    return {key: value for key, value in pairs if not key.startswith("_")}
