"""All records as one table, for analyses of others: a line for each run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sam_bench.report.rows import Record, memorised, train_error
from sam_bench.runs.record import flat, read_record

#: The columns before the settings, and what they hold. Errors are in percent, losses in nats, durations in seconds.
COLUMNS = {
    "experiment": "the preset, which is also the folder of the record",
    "run_id": "the name of the record's file, unique within the experiment",
    "method": "the optimizer's name, as in `optimizer=`",
    "seed": "the seed of weights, order and augmentation",
    "status": "`finished` or `diverged`",
    "test_error": "error of the last epoch, on the test images, or on held-out ones if `config.data.split` is `val`",
    "best_test_error": "the least error of any evaluated epoch",
    "test_loss": "cross-entropy of the last epoch",
    "test_ece": "calibration error of the last epoch, in percent, with 15 bins",
    "test_error_tta": "error with test-time augmentation, where it was measured",
    "averaged_test_error": "error of the mean of the weights, if the run kept exactly one",
    "train_loss": "mean loss over the last epoch, as trained",
    "train_error": "mean training error over the last epoch, as trained",
    "memorised": "percentage of wrong training labels that are predicted, in the last epoch",
    "steps": "steps of the optimizer",
    "passes": "forward and backward passes of a whole batch",
    "skipped_steps": "steps without an update, since a gradient was not finite",
    "train_seconds": "seconds of training",
    "eval_seconds": "seconds of evaluation",
    "peak_memory_bytes": "the most memory in use, of the GPU or else of the process",
    "parameters": "number of weights that are trained",
    "device": "the hardware, with its number of threads",
    "precision": "`fp32`, `bf16` or `fp16`",
    "engine": "`eager`, `compile` or `graph`",
    "dataset": "name of the data set",
    "dataset_sha256": "digest of all images and labels that were used",
    "train_images": "number of training images",
    "wrong_train_labels": "number of training labels that are wrong",
    "torch": "version of PyTorch",
    "git_commit": "commit of sam_bench",
}


def record_table(folder: Path) -> pd.DataFrame:
    """Return a line for each record in the experiments' folders: `COLUMNS`, then each setting as `config.NAME`.

    What a run does not have is empty, and so is what records of early versions do not say. A list is JSON.

    Args:
        folder: the folder with a folder for each experiment.

    Raises:
        StateError: a record cannot be read.
    """
    paths = sorted(folder.glob("*/records/*.json"))
    lines = [_line(path.parents[1].name, read_record(path)) for path in paths]
    settings = sorted({name for line in lines for name in line} - set(COLUMNS))
    return pd.DataFrame(lines, columns=[*COLUMNS, *settings])


def _line(experiment: str, record: Record) -> dict[str, Any]:
    """Return the line of a record."""
    averages = list(record.get("averaged", {}).values())
    derived = {
        "experiment": experiment,
        "averaged_test_error": averages[0]["test_error"] if len(averages) == 1 else None,
        "train_error": train_error(record),
        "memorised": memorised(record),
        "torch": record["versions"]["torch"],
    }
    settings = {
        f"config.{name}": json.dumps(value) if isinstance(value, list) else value
        for name, value in flat(record["config"]).items()
    }
    return {name: derived.get(name, record.get(name)) for name in COLUMNS} | settings
