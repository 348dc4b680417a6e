"""Gradients by parameter, and operations on all of them at once."""

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

#: A list of tensors, as torch's foreach functions take and return it.
Tensors = list[Tensor] | tuple[Tensor, ...]

#: Gradients by parameter, each converted by `real`, so that methods see real tensors of this process only.
Gradients = dict[Tensor, Tensor]


def add(total: Gradients, part: Gradients, weight: float) -> Gradients:
    """Return the total plus `weight` times a part's gradients; both arguments may be overwritten."""
    if not part:
        return total
    if not total and weight == 1:
        return part
    torch._foreach_mul_(list(part.values()), weight)
    if common := [p for p in part if p in total]:
        torch._foreach_add_([total[p] for p in common], [part[p] for p in common])
    return part | total


def fill_missing(parameters: list[Tensor], gradients: Gradients) -> list[Tensor]:
    """Return a gradient for each parameter, 0 for those that have none."""
    return [gradients[p] if p in gradients else torch.zeros_like(real(p)) for p in parameters]


def real(x: Tensor) -> Tensor:
    """Return a tensor as methods see it, sharing its storage.

    A sharded tensor becomes this process's shard, a complex one its real view; any other stays itself.
    """
    x = local(x)
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def local(x: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, or the tensor itself.

    Without gradient tracking it is the same object in every call.
    """
    return x.to_local() if is_sharded(x) else x


def like(p: Tensor, x: Tensor) -> Tensor:
    """Return a tensor made by `real` as a gradient of `p`: sharded, complex and of the dtype of `p`.

    Factors of another dtype may have changed the dtype of `x`.
    """
    x = torch.view_as_complex(x) if p.is_complex() else x.to(p.dtype)
    return sharded_like(p, x) if is_sharded(p) else x


def is_sharded(x: Tensor) -> TypeGuard["DTensor"]:
    """Return True if `x` is a `DTensor`, such as FSDP2's parameters.

    The class is not imported for that, since its import takes a second.
    """
    return hasattr(x, "to_local")


def sharded_like(p: "DTensor", shard: Tensor) -> "DTensor":
    """Return a sharded tensor laid out like `p`, made of this process's shard, of any dtype."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(shard, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())
