"""Reader of W&B's offline files, which hold records of its protocol in the format of a LevelDB log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768

#: Bytes before the log, and before each part of a record: checksum, length in two bytes, kind.
HEADER = 7

#: Kinds of parts that end a record.
WHOLE, LAST = 1, 4


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read the records of a `.wandb` file in their order."""
    content = path.read_bytes()
    place = HEADER
    parts = []
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is too short for a header
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
    """Return a file's content without times, and without W&B's own keys, which begin with an underscore."""
    content: dict[str, Any] = {"history": [], "summary": {}, "metrics": {}, "files": []}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            content |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "job_type": run.job_type}
            content |= {"project": run.project, "entity": run.entity, "config": _values(run.config.update)}
        elif kind == "history":
            content["history"].append((record.history.step.num, _values(record.history.item)))
        elif kind == "summary":
            content["summary"] |= _values(record.summary.update)
        elif kind == "metric":
            metric = record.metric
            content["metrics"][metric.name or metric.glob_name] = (metric.step_metric, metric.options.hidden)
        elif kind == "files":
            content["files"] += [file.path for file in record.files.files]
        elif kind == "exit":
            content["exit_code"] = record.exit.exit_code
    return content


def _values(items: Any) -> dict[str, Any]:
    """Return the values of W&B's items, by key."""
    pairs = [(item.key or ".".join(item.nested_key), json.loads(item.value_json)) for item in items]
    return {key: value for key, value in pairs if not key.startswith("_")}
