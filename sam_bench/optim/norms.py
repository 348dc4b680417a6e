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


class _Current(threading.local):
    """The shards of the tensors that this thread takes norms of; None where tensors are whole."""

    # Not a ContextVar, which torch.compile does not trace before torch 2.12.
    shards: Shards | None = None


_CURRENT = _Current()


class Direction(NamedTuple):
    """Tensors, and a scalar on their device that each of them is to be multiplied by."""

    tensors: Tensors
    factor: Tensor


@contextlib.contextmanager
def over(shards: Shards | None) -> Iterator[None]:
    """A context in which norms and inner products are over all processes' shards; None: tensors are whole."""
    before = _CURRENT.shards
    _CURRENT.shards = shards
    try:
        yield
    finally:
        _CURRENT.shards = before


def global_norm(tensors: Tensors) -> Tensor:
    """The Euclidean norm over all elements of all tensors: a scalar on their device, at least in float32."""
    dtype = _precise(tensors)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)))
    shards = _CURRENT.shards
    return norm if shards is None else shards.sum(norm.square()).sqrt()


def inner_product(a: Tensors, b: Tensors) -> Tensor:
    """⟨a, b⟩ over all elements of all tensors: a scalar on their device, at least in float32."""
    dtype = _precise(a)
    a, b = ([x.to(dtype) for x in tensors] for tensors in (a, b))
    (products,) = FlatCopy(torch._foreach_mul(a, b)).buffers
    shards = _CURRENT.shards
    return products.sum() if shards is None else shards.sum(products.sum())


def _precise(tensors: Tensors) -> torch.dtype:
    """What holds all of them, and is at least float32."""
    return functools.reduce(torch.promote_types, {x.dtype for x in tensors}, torch.float32)


def unit(d: Tensors) -> Direction:
    """`d / (‖d‖ + 1e-12)`."""
    return Direction(d, 1 / (global_norm(d) + 1e-12))


def scaled_unit(scale: Tensors, g: Tensors) -> Direction:
    """`T² g / (‖T g‖ + 1e-12)`, with `T` given element-wise by `scale`, which is overwritten."""
    scaled = torch._foreach_mul(scale, g)
    torch._foreach_mul_(scale, scaled)
    return Direction(scale, 1 / (global_norm(scaled) + 1e-12))


def along(a: Tensors, b: Tensors) -> Tensor:
    """`⟨a, b⟩ / ‖b‖²`, by which `b` is multiplied in the projection of `a` on it; 0 where `b` is 0."""
    squared = inner_product(b, b)
    return torch.where(squared > 0, inner_product(a, b) / squared, 0.0)


def scale_to_norm(x: Tensors, greatest: float, norm: Tensor | None = None) -> Tensors:
    """`x · min(1, greatest / (‖x‖ + 1e-6))`, as torch clips gradients, in new tensors."""
    norm = global_norm(x) if norm is None else norm
    return torch._foreach_mul(x, torch.clamp(greatest / (norm + 1e-6), max=1.0))
