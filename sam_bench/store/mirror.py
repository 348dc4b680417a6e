"""Weights & Biases as a mirror of what the local files hold. It may be absent or fail: that is a warning, no more."""

import warnings
from pathlib import Path
from typing import Any

from sam_bench.config import Config, LoggerConfig


class NoMirror:
    """`logger=none`."""

    def log(self, values: dict[str, Any]) -> None:
        pass

    def finish(self, summary: dict[str, Any] | None) -> None:
        pass


class WandbMirror(NoMirror):
    """`logger=wandb`: one W&B run a run, in the experiment's group, resumed under the run's own id.

    Args:
        folder: where W&B keeps its local files.
    """

    def __init__(self, config: Config, run_id: str, folder: Path):
        self.run = None
        try:
            import wandb

            folder.mkdir(parents=True, exist_ok=True)
            logger: LoggerConfig = config.logger
            self.run = wandb.init(
                project=logger.project,
                entity=logger.entity,
                mode=logger.mode,
                group=config.experiment,
                name=run_id,
                id=f"{config.experiment}-{run_id}".replace("/", "-"),
                resume="allow",
                config=config.identity(),
                dir=str(folder),
                settings=wandb.Settings(init_timeout=10, silent=True),
            )
        except Exception as error:  # whatever it is, the run's own files are complete without it
            self._warn(error)

    def log(self, values: dict[str, Any]) -> None:
        self._try(lambda run: run.log(values))

    def finish(self, summary: dict[str, Any] | None) -> None:
        """End the W&B run; without a summary it is marked as failed."""
        if summary:
            self._try(lambda run: run.summary.update(summary))
        self._try(lambda run: run.finish(exit_code=0 if summary else 1))

    def _try(self, action) -> None:
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:
            self.run = None
            self._warn(error)

    @staticmethod
    def _warn(error: Exception) -> None:
        warnings.warn(
            f"W&B failed and is left out from here on; the run's own files are complete: {error}", stacklevel=3
        )


def mirror_for(config: Config, run_id: str, folder: Path) -> NoMirror:
    return WandbMirror(config, run_id, folder) if config.logger.name == "wandb" else NoMirror()
