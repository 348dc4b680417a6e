"""The interface of loggers: the calls that a run makes to every logger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, float | None]


def finite(values: Values) -> dict[str, float]:
    """Return the values that were measured and are finite, which are those that can be drawn as curves."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Run:
    """A run, as loggers see it when it starts or continues."""

    #: The run's id.
    name: str
    #: The name of its preset.
    experiment: str
    #: A short description for the user.
    description: str
    #: All settings that can change the result, nested as in the configuration.
    settings: Mapping[str, Any]
    #: The run's own folder, where a logger may keep files.
    folder: Path
    epochs: int
    #: Number of steps of the whole run.
    steps: int
    #: Number of steps that were done before, if the run continues from a checkpoint.
    done: int


class Logger(Protocol):
    """A receiver of a run's progress. If a run has several processes, only the main process has loggers."""

    def start(self, run: Run) -> None:
        """Receive the run that starts or continues."""

    def log(self, epoch: int, values: Values) -> None:
        """Receive the values of a finished epoch.

        Args:
            epoch: the number of the epoch, counted from 1.
            values: the measured values, by name; None for a value that was not measured.
        """

    def finish(self, summary: Mapping[str, object] | None) -> None:
        """Receive the results of the run that has ended; None if it failed or was interrupted."""
