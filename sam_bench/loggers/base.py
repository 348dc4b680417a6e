"""What a run tells while it goes on: every logger is told the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Run:
    """What a logger is told of a run that begins, or goes on."""

    #: The run's id.
    name: str
    #: The preset that it belongs to.
    experiment: str
    #: The run in a few words.
    description: str
    #: All settings that can change its result, nested as in the configuration.
    settings: Mapping[str, Any]
    #: The run's own folder, where a logger may keep files.
    folder: Path
    epochs: int
    #: How many steps the whole run has.
    steps: int
    #: How many of them were done before, when it goes on from a checkpoint.
    done: int


class Logger(Protocol):
    """Is told how a run goes. Of several processes of a run, only the main one has loggers."""

    def start(self, run: Run) -> None:
        """A run begins, or goes on."""

    def log(self, epoch: int, values: Values) -> None:
        """An epoch is done. Epochs count from 1; a value is None where nothing was measured."""

    def finish(self, summary: Mapping[str, object] | None) -> None:
        """The run has ended with these figures; None if it failed, or was interrupted before its end."""
