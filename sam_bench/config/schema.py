"""The whole configuration of a run. Its values are in `conf/`."""

import math
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from sam_bench.config.analysis import AnalysisConfig
from sam_bench.config.data import DataConfig
from sam_bench.config.fields import Settings, path_of
from sam_bench.config.model import ModelConfig
from sam_bench.config.optimizer import AveragingConfig, OptimizerConfig
from sam_bench.config.training import ScheduleConfig, TrainerConfig
from sam_bench.errors import ConfigError
from sam_bench.loggers.registry import LoggerConfig
from sam_bench.optim.registry import BASES, METHODS


class PathsConfig(Settings):
    """Folders for the files of runs."""

    #: Folder of checkpoints and other files that a run needs while it trains.
    runs: str = Field(exclude=True)
    #: Folder of the records of finished runs, and of the tables made from them.
    results: str = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        for name in ("runs", "results"):
            path = path_of(f"paths.{name}", getattr(self, name))
            if not getattr(self, name) or any(p.exists() and not p.is_dir() for p in (path, *path.parents)):
                raise ConfigError(
                    f"paths.{name}={getattr(self, name)} is not a folder and cannot become one: "
                    "it is empty, or it or a parent is a file"
                )

    def runs_of(self, experiment: str) -> Path:
        """Return the folder of an experiment's runs."""
        return path_of("paths.runs", self.runs) / experiment

    def results_of(self, experiment: str) -> Path:
        """Return the folder of an experiment's records and tables."""
        return path_of("paths.results", self.results) / experiment


class Config(Settings):
    """The whole configuration of a run."""

    #: The preset's name (`experiment=`), which is also the folder of its records and tables.
    experiment: str = Field(exclude=True)
    #: Seed of the initial weights, the order of the images and their augmentation.
    seed: int = Field(ge=0, lt=2**32)
    optimizer: OptimizerConfig
    averaging: AveragingConfig
    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    analysis: AnalysisConfig = Field(exclude=True)
    #: A Python file with further methods. Only the command line may set it.
    plugin: str | None = Field(default=None, exclude=True)
    logger: LoggerConfig = Field(exclude=True)
    paths: PathsConfig = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*", self.experiment):
            raise ConfigError(f"experiment={self.experiment} is not a folder name: use letters, digits, '_' and '-'")
        if self.schedule.warmup_epochs >= self.trainer.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs} must be smaller than "
                f"trainer.epochs={self.trainer.epochs}"
            )

        # Averages: at most one, and the method's own if it has one.
        if METHODS[self.optimizer.name].averages and self.averaging.name != "swa":
            raise ConfigError(
                f"averaging={self.averaging.name} does not work with optimizer={self.optimizer.name}: "
                "choose averaging=swa"
            )
        if self.averaging.name == "lookahead" and BASES[self.optimizer.base.name].averages:
            raise ConfigError(
                f"averaging=lookahead sets the weights to their mean, and optimizer/base={self.optimizer.base.name} "
                "keeps an average of its own: choose another base, or averaging=none"
            )

        # Sizes of batches and parts of them.
        if self.trainer.micro_batch_size is not None:
            selects_examples = METHODS[self.optimizer.name].cls.selects_examples
            if self.optimizer.m or selects_examples:
                raise ConfigError(
                    f"trainer.micro_batch_size={self.trainer.micro_batch_size} uses one perturbation for a whole batch"
                    f": it cannot be used with {self.optimizer.name if selects_examples else 'optimizer.m'}: remove one"
                    " of them"
                )
        if self.trainer.drop_last and self.data.train_images < self.trainer.batch_size:
            raise ConfigError(
                f"trainer.drop_last=true leaves no batch: trainer.batch_size={self.trainer.batch_size} is more than "
                f"the {self.data.train_images} training images"
            )

        if not self.analysis.is_off:
            self.analysis.check_images(self.data.spec.classes, self.data.train_images)

        # With more smoothing, a wrong class would have a greater target probability than the true one.
        most = (self.data.spec.classes - 1) / self.data.spec.classes
        if self.trainer.smoothing_over == "others" and self.trainer.label_smoothing > most:
            raise ConfigError(
                f"trainer.label_smoothing={self.trainer.label_smoothing} makes the true class less likely than the "
                f"others: with trainer.smoothing_over=others and data={self.data.name} it must be at most {most}"
            )

        if self.schedule.lr_min >= self.optimizer.base.lr:
            raise ConfigError(
                f"schedule.lr_min={self.schedule.lr_min} must be below optimizer.base.lr={self.optimizer.base.lr}"
            )

    @property
    def steps(self) -> int:
        """Return the number of steps of the whole run."""
        images = self.data.train_images
        size = self.trainer.batch_size
        return self.trainer.epochs * (images // size if self.trainer.drop_last else math.ceil(images / size))
