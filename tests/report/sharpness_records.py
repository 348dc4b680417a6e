"""Made-up runs, and files of what the command analyse measured of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sam_bench.report.rows import rows_of
from sam_bench.report.sharpness import Sharpness, read_sharpness

METHODS = ("sgd", "sam", "asam", "gsam", "wsam", "msam")

#: The radii of every method but SGD.
RADII = (0.1, 0.2, 0.3, 0.4)

MEASURES = ("loss", "error", "gradient_norm", "eigenvalue_1", "trace", "trace_se", "one_step_0.1", "ascent_0.1",
            "average_0.01", "average_0.01_se")  # fmt: skip


def record(method: str, rho: float | None, seed: int, split: str = "test") -> dict:
    """Return the record of a run; its error grows with its method's place and its seed, and falls with its radius."""
    error = 50 + METHODS.index(method) - 10 * (rho or 0) + 0.1 * seed
    optimizer = {"name": method, "base": {"name": "sgd"}} | ({} if rho is None else {"rho": rho})
    return {
        "run_id": f"{method}-{rho}-{seed}-{split}", "method": method, "seed": seed, "status": "finished",
        "test_error": error, "dataset_sha256": "0" * 64, "history": {"test_error": [error]}, "averaged": {},
        "config": {"optimizer": optimizer, "trainer": {"epochs": 1}, "data": {"split": split}, "seed": seed},
    }  # fmt: skip


def runs() -> list[dict]:
    """Return four seeds of SGD, and of every other method at each radius: 21 rows, 84 runs."""
    with_radius = [record(method, rho, seed) for method in METHODS[1:] for rho in RADII for seed in range(4)]
    return [record("sgd", None, seed) for seed in range(4)] + with_radius


def write(folder: Path, kind: str, name: str, **content: Any) -> None:
    """Write a file of the command analyse.

    Args:
        kind: "analysis" or "landscape".
    """
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / f"{name}.json").write_text(json.dumps(content))


def write_measures(
    folder: Path,
    entries: Sequence[dict],
    value: Callable[[dict, str], Any] = lambda run, name: run["test_error"],
    **changes: Any,
) -> None:
    """Write the measures of runs.

    Args:
        value: returns the value of a run's measure; by default the run's test error.
        changes: further content of each file.
    """
    for run in entries:
        content = {
            "run_ids": [run["run_id"]],
            "test_errors": [run["test_error"]],
            "settings": {"images": 10},
            "images_sha256": "1",
            "measures": {name: value(run, name) for name in MEASURES},
        }
        write(folder, "analysis", run["run_id"], **content | changes)


def write_batch_measures(folder: Path, entries: Sequence[dict]) -> None:
    """Write the measures of runs, taken with the BatchNorm statistics of each batch."""
    for run in entries:
        measures = {"eigenvalue_1": 2.0 + run["seed"], "m_sharpness_0.05": 0.1, "m_sharpness_0.2": 0.5, "loss": 0.3}
        write(folder, "analysis", f"{run['run_id']}-batch", run_ids=[run["run_id"]], images_sha256="1",
              test_errors=[run["test_error"]], settings={"images": 10, "batchnorm": "batch"},
              measures=measures)  # fmt: skip


def write_landscape(folder: Path, kind: str, through: Sequence[dict], steps, losses, errors) -> None:
    """Write a slice of the loss through the solutions of runs."""
    run_ids = [run["run_id"] for run in through]
    test_errors = [run["test_error"] for run in through]
    write(folder, "landscape", f"{kind}-{'-'.join(run_ids)}", settings={"kind": kind}, run_ids=run_ids,
          test_errors=test_errors, steps=steps, losses=losses, errors=errors)  # fmt: skip


def read(folder: Path, entries: Sequence[dict], held_out: Sequence[dict] = ()) -> Sharpness:
    """Read the sharpness of runs, each configuration a row."""
    return read_sharpness(folder, entries, rows_of(entries), rows_of(held_out))
