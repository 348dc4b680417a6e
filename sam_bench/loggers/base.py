"""What a run tells while it goes on: every logger is told the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Run:
    """What a logger is told of a run that begins, or goes on."""

    name: str
    """The run's id."""
    experiment: str
    """The preset that it belongs to."""
    description: str
    """The run in a few words."""
    settings: Mapping[str, Any]
    """All settings that can change its result, nested as in the configuration."""
    folder: Path
    """The run's own folder, where a logger may keep files."""
    epochs: int
    steps: int
    """How many steps the whole run has."""
    done: int
    """How many of them were done before, when it goes on from a checkpoint."""


class Logger(Protocol):
    """Is told how a run goes. Of several processes of a run, only the main one has loggers."""

    def start(self, run: Run) -> None:
        """A run begins, or goes on."""

    def log(self, epoch: int, values: Values) -> None:
        """An epoch is done. Epochs count from 1; a value is None where nothing was measured."""

    def finish(self, summary: Mapping[str, object] | None) -> None:
        """The run has ended with these figures; None if it failed, or was interrupted before its end."""
