"""Gradients by parameter, and what is done with all of them at once."""

import torch
from torch import Tensor
from torch.amp import GradScaler

Gradients = dict[Tensor, Tensor]
"""By parameter; of a complex parameter the real view, so that methods see real tensors only."""


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
    """The tensor, or the real view of a complex one."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def like(p: Tensor, x: Tensor) -> Tensor:
    """What `real` gave, as the gradient of its parameter: of its type, which scalars of another may have changed."""
    return torch.view_as_complex(x) if p.is_complex() else x.to(p.dtype)
