"""Norms, inner products and unit directions over lists of tensors, all on the device."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sam_bench.optim.distributed import Shards
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Tensors


class _ActiveShards(threading.local):
    """The shards of the tensors that this thread takes norms of; None if the tensors are whole."""

    # Not a ContextVar, which torch.compile does not trace before torch 2.12.
    shards: Shards | None = None


_ACTIVE = _ActiveShards()


class Direction(NamedTuple):
    """Tensors, and a scalar on their device by which each of them is to be multiplied."""

    tensors: Tensors
    factor: Tensor


@contextlib.contextmanager
def over(shards: Shards | None) -> Iterator[None]:
    """Take norms and inner products over all processes' shards inside this context; None if tensors are whole."""
    before = _ACTIVE.shards
    _ACTIVE.shards = shards
    try:
        yield
    finally:
        _ACTIVE.shards = before


def global_norm(tensors: Tensors) -> Tensor:
    """Return the Euclidean norm over all elements of all tensors: a scalar on their device, at least in float32."""
    dtype = _common_dtype(tensors)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)))
    shards = _ACTIVE.shards
    return norm if shards is None else shards.sum(norm.square()).sqrt()


def inner_product(a: Tensors, b: Tensors) -> Tensor:
    """Return ⟨a, b⟩ over all elements of all tensors: a scalar on their device, at least in float32."""
    dtype = _common_dtype(a)
    a, b = ([x.to(dtype) for x in tensors] for tensors in (a, b))
    (products,) = FlatCopy(torch._foreach_mul(a, b)).buffers
    shards = _ACTIVE.shards
    return products.sum() if shards is None else shards.sum(products.sum())


def _common_dtype(tensors: Tensors) -> torch.dtype:
    """Return the dtype to which all of these tensors and float32 promote."""
    return functools.reduce(torch.promote_types, {x.dtype for x in tensors}, torch.float32)


def unit(d: Tensors) -> Direction:
    """Return `d / (‖d‖ + 1e-12)`."""
    return Direction(d, 1 / (global_norm(d) + 1e-12))


def scaled_unit(scale: Tensors, g: Tensors) -> Direction:
    """Return `T² g / (‖T g‖ + 1e-12)`, where `scale` holds the elements of `T`; `scale` is overwritten."""
    scaled = torch._foreach_mul(scale, g)
    torch._foreach_mul_(scale, scaled)
    return Direction(scale, 1 / (global_norm(scaled) + 1e-12))


def along(a: Tensors, b: Tensors) -> Tensor:
    """Return `⟨a, b⟩ / ‖b‖²`, the factor of `b` in the projection of `a` on it; 0 if `b` is 0."""
    squared = inner_product(b, b)
    return torch.where(squared > 0, inner_product(a, b) / squared, 0.0)


def scale_to_norm(x: Tensors, greatest: float, norm: Tensor | None = None) -> Tensors:
    """Return `x · min(1, greatest / (‖x‖ + 1e-6))` in new tensors, the way torch clips gradients."""
    norm = global_norm(x) if norm is None else norm
    return torch._foreach_mul(x, torch.clamp(greatest / (norm + 1e-6), max=1.0))
