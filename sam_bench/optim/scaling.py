"""The loss scaling of float16: taken out of gradients and put back, without waiting for its value."""

import math

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from sam_bench.optim.gradients import Gradients, like
from sam_bench.optim.norms import global_norm


def unscale(g: Gradients, scaler: GradScaler | None) -> Tensor:
    """Take the loss scaling out of `g`, in place; return a boolean scalar, true if all of `g` is finite."""
    values = list(g.values())
    if scaler is not None:
        torch._foreach_mul_(values, 1 / _scale_of(scaler, values[0].device))
    return torch.isfinite(global_norm(values))


def scale_again(g: Gradients, scaler: GradScaler | None) -> None:
    """Put the loss scaling back into `g`, because `unscale_with_scaler` expects it there."""
    if scaler is not None:
        values = list(g.values())
        torch._foreach_mul_(values, _scale_of(scaler, values[0].device))


def unscale_with_scaler(h: Gradients, finite: Tensor, scaler: GradScaler, optimizer: Optimizer) -> None:
    """Let the scaler take the loss scaling out of the last pass's gradients, and see if both passes are finite.

    Args:
        finite: true if the first pass's gradients are finite, a boolean scalar.

    Raises:
        RuntimeError: the scaler has unscaled them already.
    """
    for p, x in h.items():
        p.grad = like(p, x)

    # The scaler sees the last pass only: a NaN in it says that the first pass was not finite.
    carrier = next(x for x in h.values() if x.numel())
    carrier.add_(torch.where(finite, 0.0, math.nan))
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:
        raise RuntimeError(
            f"{error} Call scaler.update() after every step, and leave scaler.unscale_(optimizer) out: the "
            "optimizer does that itself, and clips with clip_norm="
        ) from error


def refuse_scalers_step(optimizer: Optimizer) -> None:
    """Check that no GradScaler's own `step` calls the optimizer's.

    Raises:
        RuntimeError: one does.
    """
    if hasattr(optimizer, "grad_scale"):  # a GradScaler sets it around the steps that it calls
        for name in ("grad_scale", "found_inf"):
            delattr(optimizer, name)
        raise RuntimeError(
            "scaler.step(optimizer) cannot take a step of several passes: call optimizer.step(closure, "
            "scaler=scaler), or first_step(scaler=scaler) and second_step(scaler=scaler), then scaler.update()"
        )


def _scale_of(scaler: GradScaler, device: torch.device) -> Tensor:
    """Return the present scale, on the device, without waiting for it."""
    return scaler.scale(torch.ones((), device=device))
