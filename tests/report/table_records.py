"""Made-up records of an experiment, and the table of records."""

import json
from pathlib import Path

import pandas as pd

from sam_bench.cli import compose
from sam_bench.report.table import Findings

#: The test errors of each method's seeds.
ERRORS = {"sgd": [3.3, 3.1, 3.2], "sam": [2.9, 2.8, 3.0], "gsam": [2.5]}


def record(method: str, seed: int, error: float, **changes) -> dict:
    """Return the record of a finished run of sam_example.

    Args:
        error: the test error.
        changes: further entries.
    """
    config = compose.compose(["experiment=sam_example", f"optimizer={method}", f"seed={seed}"]).identity()
    entries = {
        "schema_version": 1,
        "run_id": f"{method}-{seed}",
        "experiment": "sam_example",
        "method": method,
        "seed": seed,
        "status": "finished",
        "test_error": error,
        "best_test_error": error - 0.1,
        "test_loss": 0.05 * error,
        "test_ece": 1.5,
        "history": {},
        "skipped_steps": 0,
        "passes": 78_200 if method == "sgd" else 156_400,
        "train_seconds": 1000.0 + seed,
        "images_per_second": 10_000.0,
        "peak_memory_bytes": 3 * 2**30,
        "device": "NVIDIA H200",
        "precision": "bf16",
        "dataset": "cifar10",
        "dataset_sha256": "0" * 64,
        "config": config,
    }
    return entries | changes


def records() -> list[dict]:
    """Return a record for each of `ERRORS`."""
    return [record(method, seed, error) for method, errors in ERRORS.items() for seed, error in enumerate(errors)]


def write(folder: Path, entries: list[dict]) -> None:
    """Write records to the folder's subfolder `records`."""
    (folder / "records").mkdir(parents=True)
    for entry in entries:
        (folder / "records" / f"{entry['run_id']}.json").write_text(json.dumps(entry))


def make_table(entries: list[dict]) -> pd.DataFrame:
    """Return the table of records as a frame."""
    return Findings.of(entries).as_frame()
