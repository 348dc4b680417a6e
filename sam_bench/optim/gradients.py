"""Gradients by parameter, and what is done with all of them at once."""

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor
from torch.amp import GradScaler

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Tensors = list[Tensor] | tuple[Tensor, ...]
"""As torch's foreach functions take and return them."""

Gradients = dict[Tensor, Tensor]
"""By parameter; each as `real` gives it, so that methods see real tensors of this process only."""


def add(total: Gradients, part: Gradients, weight: float) -> Gradients:
    """The total with a part's gradients added, times its weight; both are used up."""
    if weight == 1 or not part:
        return total or part
    torch._foreach_mul_(list(part.values()), weight)
    if common := [p for p in part if p in total]:
        torch._foreach_add_([total[p] for p in common], [part[p] for p in common])
    return part | total


def loss_scale(scaler: GradScaler, device: torch.device) -> Tensor:
    """The present scale, on the device, without waiting for it."""
    return scaler.scale(torch.ones((), device=device))


def real(x: Tensor) -> Tensor:
    """The same storage as methods see it: of a sharded tensor this process's shard, of a complex one the real view."""
    x = local(x)
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def local(x: Tensor) -> Tensor:
    """The tensor, or this process's shard of it; where gradients are disabled, always the same object."""
    return x.to_local() if is_sharded(x) else x


def like(p: Tensor, x: Tensor) -> Tensor:
    """What `real` gave, as the gradient of its parameter: of its type, which scalars of another may have changed."""
    x = torch.view_as_complex(x) if p.is_complex() else x.to(p.dtype)
    return sharded_like(p, x) if is_sharded(p) else x


def is_sharded(x: Tensor) -> TypeGuard["DTensor"]:
    """Whether it is a `DTensor`, as FSDP2 makes parameters; known without that class, whose import takes a second."""
    return hasattr(x, "to_local")


def sharded_like(p: "DTensor", shard: Tensor) -> "DTensor":
    """A sharded tensor laid out like `p`, of which this process has this shard, of any dtype."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(shard, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())
