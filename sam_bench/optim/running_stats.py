"""The running statistics of a model's normalisation layers: read, written back, chosen, all on the device."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sam_bench.optim.flat import FlatCopy


class RunningStatistics:
    """Mean, variance and batch count of every layer of `model` that keeps running statistics.

    Layers are found once, their buffers at every call, so that a model may be moved after this was made.

    Args:
        model: any module; None, or one without such layers, makes every call do nothing.
    """

    def __init__(self, model: nn.Module | None):
        modules = model.modules() if model is not None else ()
        self.layers = [module for module in modules if getattr(module, "running_mean", None) is not None]

    def read(self) -> FlatCopy:
        """A copy of all statistics."""
        return FlatCopy(self._buffers())

    def write(self, reading: FlatCopy) -> None:
        """Put back what `read` returned, into the same storage."""
        reading.write_to(self._buffers())

    def keep_if(self, condition: Tensor, otherwise: FlatCopy) -> FlatCopy:
        """Leave the statistics as they are where `condition` (a boolean scalar) holds, else write `otherwise`.

        Returns:
            A copy of what the statistics are now.
        """
        return otherwise.keep_if(condition, self._buffers())

    def _buffers(self) -> list[Tensor]:
        return [buffer for layer in self.layers for buffer in layer.buffers(recurse=False)]


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """A context in which forward passes leave the model's running statistics as they are.

    For the second pass of a hand-written loop whose optimizer was not given the model:

        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
        >>> F.cross_entropy(model(x), y).backward()
        >>> if optimizer.first_step(zero_grad=True):
        ...     with frozen_statistics(model):
        ...         F.cross_entropy(model(x), y).backward()
        >>> optimizer.second_step(zero_grad=True)

    Normalisation within the batch is as before; contexts may be nested.
    """
    statistics = RunningStatistics(model)
    with torch.no_grad():
        before = statistics.read()
    try:
        yield
    finally:
        with torch.no_grad():
            statistics.write(before)


@torch.no_grad()
def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> None:
    """Make the model's running statistics the means of those of its batches, weighted by their numbers of examples.

    A forward pass for each batch, in training mode, without compiled code: layers frozen in evaluation mode are
    estimated too. A model without running statistics is left alone, and so are the batches. Afterwards each module is
    in the mode, and each layer has the momentum, that it had before.

    Args:
        batches: inputs of the model, on its device, their first dimension the examples; or tuples or lists that begin
            with them, as a loader of inputs and labels gives.

    Raises:
        ValueError: there is no batch.
        Exception: whatever a batch or the model raises; the statistics are, in any such case, as before.

    Example:
        >>> reestimate_statistics(model, [x, x])
    """
    statistics = RunningStatistics(model)
    layers = [layer for layer in statistics.layers if isinstance(layer, _NormBase)]  # others keep what they were given
    if not layers:
        return
    before = statistics.read()
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    model.train()
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would be made anew for every momentum
            _estimate(model, layers, batches)
    except BaseException:
        statistics.write(before)
        raise
    finally:
        for module, training in modes.items():
            module.training = training
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def inputs_of(batch: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the inputs of a batch: the batch itself, or what a tuple or list begins with."""
    return batch[0] if isinstance(batch, Sequence) else batch


def _estimate(model: nn.Module, layers: list[_NormBase], batches: Iterable[Tensor | Sequence[Tensor]]) -> None:
    number = examples = 0
    for layer in layers:
        layer.reset_running_stats()
    for batch in batches:
        inputs = inputs_of(batch)
        if not len(inputs):
            continue
        number += 1
        examples += len(inputs)
        for layer in layers:
            layer.momentum = len(inputs) / examples
        model(inputs)
    if not examples:
        raise ValueError("there are no batches to estimate the running statistics from")
    for layer in layers:
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(number)
