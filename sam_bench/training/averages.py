"""The weight averages of a run, updated while it trains and evaluated at its end."""

from collections.abc import Callable
from typing import Any

from torch import nn

from sam_bench.config.optimizer import AveragingConfig
from sam_bench.data.batches import Batches
from sam_bench.optim.averaging import WeightAverage
from sam_bench.optim.lookahead import Lookahead
from sam_bench.optim.running_stats import frozen_statistics
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.evaluate import estimate_on_training_images


class Averages:
    """All weight averages that a configuration asks for, by name, such as "swa 0.75" or "ema 0.999".

    Lookahead differs: its mean is not kept beside the weights, but the weights are set to it.

    Args:
        epochs: epochs of the whole run; an average's start is a fraction of them.
        steps: steps of the whole run, for lookahead.
    """

    def __init__(self, config: AveragingConfig, model: nn.Module, epochs: int, steps: int = 1):
        self.model = model
        parameters = list(model.parameters())
        starts = config.starts or ()

        #: Epochs after which each average over epochs begins; rounded, because 0.7 · 180 must be 126.
        self.first_epoch = {f"swa {start:.12g}": round(start * epochs, 9) for start in starts}
        self.by_name = {name: WeightAverage(parameters) for name in self.first_epoch}
        self.lookahead: Lookahead | None = None
        if config.name == "lookahead":
            self.lookahead = Lookahead.of(model, steps, config.every, config.decay)
        elif config.decay is not None:
            self.by_name[f"ema {config.decay:.12g}"] = WeightAverage(parameters, config.decay)

    def after_step(self) -> None:
        """Update the averages over steps; lookahead may set the weights to its mean."""
        if self.lookahead is not None:
            self.lookahead.update()
        for name, average in self.by_name.items():
            if name not in self.first_epoch:
                average.update()

    def after_epoch(self, done: int) -> None:
        """Update the averages over epochs whose start is before `done` epochs."""
        for name, first in self.first_epoch.items():
            if done > first:
                self.by_name[name].update()

    def evaluate(
        self,
        train: Batches,
        epoch: int,
        hardware: Hardware,
        processes: Processes,
        measure: Callable[[], dict[str, float]],
    ) -> dict[str, dict[str, float]]:
        """Return the measures of each average that has begun, by its name.

        Running statistics are re-estimated over the training images for each. Afterwards the model has its own weights
        and statistics again, bit for bit.

        Args:
            epoch: epoch whose order and augmentation of the images the re-estimation uses.
            measure: returns the measures of the model with the weights that it has.
        """
        measures = {}
        begun = {name: average for name, average in self.by_name.items() if average.count}
        for name, average in begun.items():
            with average.swapped(), frozen_statistics(self.model):
                estimate_on_training_images(self.model, train, epoch, hardware, processes)
                measures[name] = measure()
        return measures

    def state_dict(self) -> dict[str, Any]:
        own = {} if self.lookahead is None else {"lookahead": self.lookahead.state_dict()}
        return own | {name: average.state_dict() for name, average in self.by_name.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.lookahead is not None:
            self.lookahead.load_state_dict(state["lookahead"])
        for name, average in self.by_name.items():
            average.load_state_dict(state[name])
