"""SAM with weight averaging."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sam_bench.optim.averaging import WeightAverage
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.running_stats import RunningStatistics, inputs_of, moved, reestimate_statistics


class WASAM(SAM):
    """SAM with a running mean of the weights (Kaddour et al., 2022, arXiv:2202.00661).

    Call `update_swa` after each of the last epochs, usually the last quarter. At the end call `swap_swa_sgd` to use the
    averaged weights, and then `bn_update` to re-estimate their running statistics. The average is part of the
    state_dict.

    Args:
        adaptive: use ASAM's perturbation instead of SAM's.

    Example:
        >>> optimizer = WASAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> optimizer.update_swa()  # after each of the last epochs
        >>> optimizer.swap_swa_sgd()  # now the weights are the average
    """

    def __init__(self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.05, **options: Any):
        super().__init__(params, base_optimizer, rho, **options)
        self.average = WeightAverage(self._parameters())
        #: Running statistics that were re-estimated for the averaged weights, with copies of those of the raw weights.
        self._raw_statistics: list[tuple[RunningStatistics, FlatCopy]] = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "average") and self.average.count:
            raise RuntimeError("weights are averaged already: add parameter groups before the first update_swa()")
        super().add_param_group(param_group)
        if hasattr(self, "average"):
            self.average.parameters[:] = self._parameters()

    def _refuse_during_step(self, caller: str) -> None:
        super()._refuse_during_step(caller)
        if self.average.is_swapped and caller != "state_dict()":
            raise RuntimeError(
                f"{caller} while the weights are swapped with their mean: call swap_swa_sgd() first, to swap them back"
            )

    def update_swa(self) -> None:
        """Add the present weights to the running mean."""
        self.average.update()

    @torch.no_grad()
    def swap_swa_sgd(self) -> None:
        """Exchange the weights with their mean; a second call exchanges them back, bit for bit.

        If `bn_update` was called in between, the second call also restores the running statistics of the raw weights.

        Raises:
            RuntimeError: there is no mean, because `update_swa` was never called.
        """
        self.average.swap()
        self.drop_gathered()

        while self._raw_statistics and not self.average.is_swapped:
            statistics, raw = self._raw_statistics.pop()
            statistics.write(raw)

    @torch.no_grad()
    def bn_update(self, loader: Iterable[Any], model: nn.Module, device: torch.device | str | None = None) -> None:
        """Re-estimate the model's running statistics over a loader, in training mode; see `reestimate_statistics`.

        Args:
            loader: batches of inputs, or tuples or lists that begin with the inputs.
            device: the device to which inputs are moved; None leaves them where they are.

        Raises:
            ValueError: the loader is empty.
        """
        # Only the statistics before the first call belong to the raw weights.
        if self.average.is_swapped and not self._raw_statistics:
            statistics = RunningStatistics(model)
            self._raw_statistics.append((statistics, statistics.read()))
        reestimate_statistics(model, loader if device is None else ([moved(inputs_of(b), device)] for b in loader))

    def _collect_state(self) -> dict[str, Any]:
        return super()._collect_state() | {"average": self.average.state_dict()}

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        super()._apply_state(state_dict)
        self.average.load_state_dict(state_dict["average"])
