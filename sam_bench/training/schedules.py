"""Learning rate and radius as pure functions of the step, which counts from 0.

A value holds from the very step on at which it is due. The examples of SAM and GSAM set theirs after a step, for the
next one: SAM's learning rate changes a batch late there, GSAM's learning rate and radius a step late.
"""

import math
from collections.abc import Callable

from sam_bench.optim.methods.gsam import proportional_radius

Schedule = Callable[[int], float]


def _decay(shape: str, progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    if shape == "constant":
        return 1.0
    if shape == "linear":
        return 1 - progress
    if shape == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    raise ValueError(f"there is no schedule {shape!r}")


def learning_rate(
    name: str,
    *,
    lr: float,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.0,
    lr_min: float = 0.0,
    milestones: tuple[float, ...] = (),
    gamma: float = 1.0,
    every: str = "step",
    start: float = 1.0,
    peak: float = 0.5,
    end: float = 0.0,
) -> Schedule:
    """η(t) for t = 0 … epochs · steps_per_epoch − 1; the first step is already at the first value.

    Args:
        name: "constant"; "linear" or "cosine", from `lr` after the warm-up towards `lr_min` at the end; "step", `lr`
            times `gamma` for every milestone that is reached; "triangular", linearly from `start` times `lr` to `lr`
            and then towards `end` times `lr`.
        milestones: for "step", fractions of the whole run.
        peak: for "triangular", the fraction of the steps after which the rate is `lr`, rounded down to a whole step.
        warmup_epochs: for so long the rate first rises linearly to `lr`.
        warmup_start: the fraction of `lr` at which the first step is; `lr` is reached with the first step after the
            warm-up. A rate of 0 would train nothing: from 0 the rise is a step ahead, the first step at `lr` over the
            number of warm-up steps, the last of them at `lr`.
        every: "step", or "epoch" to hold the rate of an epoch's first step throughout; the warm-up, too, then rises
            from epoch to epoch as it otherwise does from step to step.
    """
    steps = epochs * steps_per_epoch
    warmup = round(warmup_epochs * steps_per_epoch)
    unit = steps_per_epoch if every == "epoch" else 1
    if name == "triangular":
        return _triangle(lr, steps, int(round(peak * steps, 9)), start, end)
    first = warmup_start * lr

    def eta(t: int) -> float:
        t -= t % unit
        if t < warmup:
            risen = t // unit + (warmup_start == 0)
            return first + (lr - first) * min(risen, warmup / unit) / (warmup / unit)
        if name == "step":
            return lr * gamma ** sum(t >= round(milestone * steps, 9) for milestone in milestones)
        return lr_min + (lr - lr_min) * _decay(name, (t - warmup) / (steps - warmup))

    return eta


def _triangle(lr: float, steps: int, top: int, start: float, end: float) -> Schedule:
    """Return the triangular schedule, whose greatest value is at step `top`."""

    def eta(t: int) -> float:
        if t < top:
            return lr * (start + (1 - start) * t / top)
        return lr * (1 - (1 - end) * (t - top) / (steps - top))

    return eta


def radius(name: str, *, rho: float, rho_min: float, steps: int, eta: Schedule, lr: float, lr_min: float) -> Schedule:
    """ρ(t), from `rho` towards `rho_min`.

    Args:
        name: "constant" (always `rho`); "linear" or "cosine" over the whole run; "proportional" to the learning rate,
            as GSAM has it (see `proportional_radius`).
        eta: the learning rate's schedule, whose greatest value is `lr` and least `lr_min`.
    """

    def rho_at(t: int) -> float:
        if name == "constant":
            return rho
        if name == "proportional":
            return proportional_radius(eta(t), lr_min=lr_min, lr_max=lr, rho_min=rho_min, rho=rho)
        return rho_min + (rho - rho_min) * _decay(name, t / steps)

    return rho_at
