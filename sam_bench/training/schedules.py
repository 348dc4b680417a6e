"""Schedules of learning rate and radius, as pure functions of the step, which counts from 0.

A step uses the value of that very step. The example codes of SAM and GSAM set values after a step, for the next one:
SAM's learning rate is a batch late there, and GSAM's learning rate and radius are a step late.
"""

import math
from collections.abc import Callable

from sam_bench.optim.methods.gsam import proportional_radius

#: The value at each step.
Schedule = Callable[[int], float]


def _decay(shape: str, progress: float) -> float:
    """Return a factor that falls from 1 at progress 0 to 0 at progress 1, or stays 1 if the shape is "constant"."""
    if shape == "constant":
        return 1.0
    if shape == "linear":
        return 1 - progress
    if shape == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    raise ValueError(f"unknown schedule {shape!r}: choose constant, linear or cosine")


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
    """Return the learning rate's schedule η(t), for t = 0 … epochs · steps_per_epoch − 1.

    Args:
        name: the shape. "constant": `lr`. "linear" or "cosine": from `lr` after the warm-up towards `lr_min` at the
            end. "step": `lr`, multiplied by `gamma` at every milestone. "triangular": linearly from `start` times `lr`
            to `lr`, and then towards `end` times `lr`.
        milestones: for "step", fractions of the whole run.
        peak: for "triangular", the fraction of the steps after which the rate is `lr`, rounded down to a whole step.
        warmup_epochs: number of epochs in which the rate first rises linearly to `lr`.
        warmup_start: the first step's rate as a fraction of `lr`; the first step after the warm-up is at `lr`. A rate
            of 0 would train nothing, so with 0 the rise is one step ahead: the first step is at `lr` over the number
            of warm-up steps, and the last warm-up step at `lr`.
        every: "step", or "epoch" to keep the rate of an epoch's first step for the whole epoch; the warm-up then rises
            epoch by epoch in the same way.
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
            units_done = t // unit + (warmup_start == 0)
            return first + (lr - first) * min(units_done, warmup / unit) / (warmup / unit)
        if name == "step":
            return lr * gamma ** sum(t >= round(milestone * steps, 9) for milestone in milestones)
        return lr_min + (lr - lr_min) * _decay(name, (t - warmup) / (steps - warmup))

    return eta


def _triangle(lr: float, steps: int, top: int, start: float, end: float) -> Schedule:
    """Return the triangular schedule, whose peak is at step `top`."""

    def eta(t: int) -> float:
        if t < top:
            return lr * (start + (1 - start) * t / top)
        return lr * (1 - (1 - end) * (t - top) / (steps - top))

    return eta


def radius(name: str, *, rho: float, rho_min: float, steps: int, eta: Schedule, lr: float, lr_min: float) -> Schedule:
    """Return the radius's schedule ρ(t), from `rho` towards `rho_min`.

    Args:
        name: the shape. "constant": `rho`. "linear" or "cosine": over the whole run. "proportional": with the learning
            rate, as in GSAM (see `proportional_radius`).
        eta: the learning rate's schedule, whose greatest value is `lr` and whose least is `lr_min`.
    """

    def rho_at(t: int) -> float:
        if name == "constant":
            return rho
        if name == "proportional":
            return proportional_radius(eta(t), lr_min=lr_min, lr_max=lr, rho_min=rho_min, rho=rho)
        return rho_min + (rho - rho_min) * _decay(name, t / steps)

    return rho_at
