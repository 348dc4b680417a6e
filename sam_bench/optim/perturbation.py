"""Weights on their way from `w` to `w + e` and back, by copy, bit for bit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, Tensors, real
from sam_bench.optim.progress import Progress


def perturb(e: Gradients, progress: Progress) -> None:
    """Keep a copy of `w`, and set the weights to `w + e`.

    Args:
        progress: holds the copy until `restore`.
    """
    w = [real(p) for p in e]
    for p, x in zip(e, w, strict=True):
        backup = progress.unperturbed.get(p)
        if backup is None or (backup.dtype, backup.device) != (x.dtype, x.device):  # a model may be moved or cast
            progress.unperturbed[p] = torch.empty_like(x)
    torch._foreach_copy_([progress.unperturbed[p] for p in e], w)

    # Set before the weights change: after an interrupt in between, restoring is still right.
    progress.perturbed_now = list(e)
    torch._foreach_add_(w, list(e.values()))


def restore(progress: Progress) -> None:
    """Set the weights that are perturbed now back to `w` by copy.

    `progress.perturbed_now` stays, for the caller to clear at the end: an interrupt before that restores them again.
    """
    copies = [progress.unperturbed[p] for p in progress.perturbed_now]
    torch._foreach_copy_([real(p) for p in progress.perturbed_now], copies)


def scale_by_group(
    param_groups: list[dict[str, Any]],
    parameters: list[Tensor],
    x: Tensors,
    factor: Callable[[dict[str, Any]], Any],
    finite: Tensor,
) -> Gradients:
    """Return copies of `x`, one tensor per parameter, times the factor of the parameter's group.

    Args:
        factor: takes a group and returns a number or a scalar tensor.
        finite: a boolean scalar; if it is false, all copies are 0.
    """
    copies = FlatCopy(x, like=[real(p) for p in parameters])
    copy_of = dict(zip(parameters, copies.views, strict=True))
    for group in param_groups:
        if own := [copy_of[p] for p in group["params"] if p in copy_of]:
            torch._foreach_mul_(own, factor(group))
    copies.zero_unless(finite)
    return copy_of
