"""Fixtures and helpers that several tests of commands share."""

import sys
from pathlib import Path

import pytest

from sam_bench.cli import parallel
from tests.forked import Forked, command_line

#: Overrides that make any run of the preset smoke two steps long.
TWO_STEPS = ["data.train_subset=20", "trainer.batch_size=10", "trainer.epochs=1", "schedule.warmup_epochs=0",
             "trainer.device=cpu"]  # fmt: skip


@pytest.fixture
def forked(folder, monkeypatch):
    """Start runs in processes that need not import everything first; return the arguments of each as it starts."""
    started = []

    def popen(arguments: list[str], env: dict[str, str]) -> Forked:
        assert arguments[:3] == [sys.executable, "-m", "sam_bench"]
        started.append(arguments[3:])
        return Forked(command_line, *arguments[3:], cwd=folder, environment=env)

    monkeypatch.setattr(parallel.subprocess, "Popen", popen)
    return started


def has_record(folder: Path) -> bool:
    """Return True once a run in the folder has finished."""
    return any((folder / "results").rglob("records/*.json"))
