"""Running statistics of a model's normalisation layers: reading, writing and re-estimating them on the device."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.rnn import PackedSequence
from torch.nn.utils.spectral_norm import SpectralNorm

from sam_bench.optim.flat import FlatCopy


class RunningStatistics:
    """The buffers of all layers of a model that keep running statistics.

    Such a layer has a buffer called `running_…` or `moving_…`, as normalisation layers do, or it estimates a spectral
    norm from pass to pass, as torch's `spectral_norm` does. Layers are looked up once, but their buffers in every call,
    so the model may be moved later.

    Args:
        model: any module; with None, or without such layers, every call does nothing.
    """

    def __init__(self, model: nn.Module | None):
        modules = model.modules() if model is not None else ()
        self.layers = [module for module in modules if _has_statistics(module)]

    def read(self) -> FlatCopy:
        """Return a copy of all statistics."""
        return FlatCopy(self._buffers())

    def write(self, reading: FlatCopy) -> None:
        """Write back what `read` returned, into the same storage."""
        reading.write_to(self._buffers())

    def keep_if(self, condition: Tensor, otherwise: FlatCopy) -> FlatCopy:
        """Keep the statistics as they are if `condition` (a boolean scalar) is true, else write `otherwise` to them.

        Returns:
            A copy of the statistics after that.
        """
        return otherwise.keep_if(condition, self._buffers())

    def _buffers(self) -> list[Tensor]:
        """Return the present buffers of all these layers."""
        return [buffer for layer in self.layers for buffer in layer.buffers(recurse=False)]


def _has_statistics(module: nn.Module) -> bool:
    """Return True if a module's forward pass in training mode updates buffers of its own."""
    if isinstance(module, _SpectralNorm):
        return True
    if any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
        return True
    names = [name for name, buffer in module.named_buffers(recurse=False) if buffer is not None]
    return any(name.startswith(("running_", "moving_")) for name in names)


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Restore the model's running statistics when this context ends, so that passes in it do not change them.

    Use it for the second pass of a hand-written loop whose optimizer was not given the model:

        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
        >>> F.cross_entropy(model(x), y).backward()
        >>> if optimizer.first_step(zero_grad=True):
        ...     with frozen_statistics(model):
        ...         F.cross_entropy(model(x), y).backward()
        >>> optimizer.second_step(zero_grad=True)

    Layers still normalise with the statistics of the batch. Contexts may be nested.
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
def reestimate_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set the model's running statistics to the means of the batches' statistics, weighted by numbers of examples.

    Each batch takes a forward pass in training mode, without compiled code. Layers frozen in evaluation mode are
    estimated too. Without such layers, neither model nor batches are touched. Afterwards each module has its former
    mode, and each layer its former momentum.

    Args:
        batches: the model's inputs, on its device: a tensor, or a mapping, list or tuple of tensors, whose first
            dimensions are the examples. A batch that is a list or tuple begins with the inputs, as a loader of inputs
            and labels gives. The model is called with the inputs as its one argument.

    Raises:
        ValueError: there is no batch, or no example in any.
        TypeError: a batch has no tensors, or their numbers of examples differ.
        Exception: whatever a batch or the model raises; after any error the statistics are as before.

    Example:
        >>> reestimate_statistics(model, [x, x])
    """
    statistics = RunningStatistics(model)
    layers = [layer for layer in statistics.layers if isinstance(layer, _NormBase)]  # only these can be re-estimated
    if not layers:
        return

    before = statistics.read()
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    model.train()
    try:
        with torch.compiler.set_stance("force_eager"):  # torch.compile would recompile for every momentum
            _estimate(model, layers, batches)
    except BaseException:
        statistics.write(before)
        raise
    finally:
        for module, training in modes.items():
            module.training = training
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch: the batch itself, or the first item of a list or tuple."""
    return batch[0] if isinstance(batch, (list, tuple)) and not isinstance(batch, PackedSequence) else batch


def moved(inputs: Any, device: torch.device | str) -> Any:
    """Return a model's inputs on a device: a tensor, or a mapping, list or tuple with each of its tensors moved."""
    if isinstance(inputs, Mapping):
        return {name: moved(item, device) for name, item in inputs.items()}
    if isinstance(inputs, (list, tuple)) and not isinstance(inputs, PackedSequence):
        return [moved(item, device) for item in inputs]
    return inputs.to(device) if hasattr(inputs, "to") else inputs


def count_examples(inputs: Any) -> int:
    """Return the number of examples in a model's inputs: the first dimension that all of their tensors share.

    Args:
        inputs: a tensor, or a mapping, list or tuple of tensors; other items, and scalars, are ignored.

    Raises:
        TypeError: there is no tensor among them, or their first dimensions differ.
    """
    if isinstance(inputs, Tensor):
        items: Iterable[Any] = [inputs]
    elif isinstance(inputs, Mapping):
        items = inputs.values()
    else:
        items = inputs if isinstance(inputs, (list, tuple)) and not isinstance(inputs, PackedSequence) else []

    lengths = {len(item) for item in items if isinstance(item, Tensor) and item.dim()}
    if len(lengths) != 1:
        raise TypeError(
            f"a batch has inputs of type {type(inputs).__name__}, whose number of examples is unknown: give a "
            "tensor, or a mapping or list of tensors whose first dimensions are equal"
        )
    return lengths.pop()


def _estimate(model: nn.Module, layers: list[_NormBase], batches: Iterable[Any]) -> None:
    """Re-estimate the statistics of these layers, with a momentum that makes them a running mean.

    Raises:
        ValueError: there is no batch, or no example in any.
    """
    number = examples = 0
    for layer in layers:
        layer.reset_running_stats()

    for batch in batches:
        inputs = inputs_of(batch)
        count = count_examples(inputs)
        if not count:
            continue

        # With this momentum a layer's new statistics are the mean over all examples so far.
        number += 1
        examples += count
        for layer in layers:
            layer.momentum = count / examples
        model(inputs)

    if not examples:
        raise ValueError("there are no batches to estimate the running statistics from: give at least one")
    for layer in layers:
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(number)
