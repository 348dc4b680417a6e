"""The project's studies, and made-up records of their runs."""

import copy

from sam_bench.cli.compose import compose, compose_seeds
from sam_bench.cli.conf_folder import choices
from sam_bench.report.study import Study
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware

#: The studies of `conf/study`, by name.
OURS = {name: Study.read(path) for name, path in choices("study").items()}


def run_settings(study: Study) -> dict[str, dict]:
    """Return the configuration of each run of a study, by row title and seed."""
    return {
        title: {seed: config.identity() for seed, config in compose_seeds(study.overrides(title), study.seeds).items()}
        for title in study.rows
    }


def record(overrides: list[str], error: float = 50.0, precision: str = "bf16", **changes) -> dict:
    """Return the record of a finished run on a CPU.

    Args:
        error: the test error.
        changes: further entries.
    """
    config = compose(overrides)
    spec = RunSpec.on(config, Hardware.choose("cpu", precision))
    entries = {
        "seed": config.seed,
        "method": config.optimizer.name,
        "status": "finished",
        "test_error": error,
        "config": spec.identity,
        "dataset_sha256": "0" * 64,
        "precision": precision,
        "m": spec.m,
        "batchnorm": spec.batchnorm,
        "device": "here",
        "history": {},
        "versions": {"torch": "2"},
        "passes": 1,
    }

    average = config.averaging.name
    if average in ("swa", "ema"):
        entries["averaged"] = {average: {"test_error": error - 1}}
    return copy.deepcopy(entries | changes)


def runs_of(*titles: str, **changes) -> list[dict]:
    """Return records of noisy40: seeds 0 and 1 of each row, with errors of 50 and 51 %."""
    return [
        record([*OURS["noisy40"].overrides(title), f"seed={seed}"], error=50 + seed, **changes)
        for title in titles
        for seed in (0, 1)
    ]


def runs_on_own_draws(*titles: str, seeds=(0, 1), **changes) -> list[dict]:
    """Return records of noisy40_draws, each seed on data of its own."""
    return [
        record([*OURS["noisy40_draws"].overrides(title), f"seed={seed}"], 50 + seed, dataset_sha256=str(seed) * 64)
        | changes
        for title in titles
        for seed in seeds
    ]
