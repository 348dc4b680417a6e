"""A logger that writes a run's curves for TensorBoard, into the folder `tensorboard` of the run.

`tensorboard --logdir runs` shows all runs.
"""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from sam_bench.config import fields
from sam_bench.errors import ConfigError
from sam_bench.loggers.base import Run, Values, finite


class Settings(fields.Settings):
    """TensorBoard (`logger=tensorboard`), which has no settings of its own."""

    def model_post_init(self, context: Any) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "logger=tensorboard needs a package that is not installed: pip install -e '.[tensorboard]'"
            )


class Logger:
    """A logger with one folder of event files per run. A run that continues adds a file to it."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds

        # Epochs after the last checkpoint are trained and logged again: TensorBoard shows the later values only.
        epochs_done = run.done * run.epochs // run.steps
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=epochs_done + 1)
        self._log_as_text("settings", run.settings)

    def log(self, epoch: int, values: Values) -> None:
        for name, value in finite(values).items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self, summary: Mapping[str, object] | None) -> None:
        if summary is not None:
            self._log_as_text("summary", summary)
        self.writer.close()

    def _log_as_text(self, name: str, values: Mapping[str, Any]) -> None:
        """Log nested values as a block of JSON, which TensorBoard shows in its Text tab."""
        self.writer.add_text(name, f"```\n{json.dumps(values, indent=2, default=str)}\n```")
