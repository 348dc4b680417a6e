"""Learning rate and radius as pure functions of the step, which counts from 0."""

import math
from collections.abc import Callable

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
    lr_min: float = 0.0,
    milestones: tuple[float, ...] = (),
    factor: float = 1.0,
    every: str = "step",
) -> Schedule:
    """η(t) for t = 0 … epochs · steps_per_epoch − 1; the first step is already at the first value.

    Args:
        name: "constant"; "linear" or "cosine", from `lr` after the warm-up towards `lr_min` at the end; "step", `lr`
            times `factor` for every milestone that is reached.
        milestones: for "step", fractions of the whole run.
        warmup_epochs: at first the rate rises linearly to `lr`, starting from `lr` over the number of warm-up steps.
        every: "step", or "epoch" to hold the rate of an epoch's first step throughout (but for the warm-up).
    """
    steps, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)

    def eta(t: int) -> float:
        if t < warmup:
            return lr * (t + 1) / warmup
        if every == "epoch":
            t = max(warmup, t - t % steps_per_epoch)
        if name == "step":
            return lr * factor ** sum(t >= round(milestone * steps, 9) for milestone in milestones)
        return lr_min + (lr - lr_min) * _decay(name, (t - warmup) / (steps - warmup))

    return eta


def radius(name: str, *, rho: float, rho_min: float, steps: int, eta: Schedule, lr: float, lr_min: float) -> Schedule:
    """ρ(t), from `rho` towards `rho_min`.

    Args:
        name: "constant" (always `rho`); "linear" or "cosine" over the whole run; "proportional" to the learning rate,
            `(ρ_t − ρ_min) / (ρ − ρ_min) = (η_t − η_min) / (η_max − η_min)`, never under `rho_min` (Zhuang et al., 2022,
            arXiv:2203.08065).
        eta: the learning rate's schedule, whose greatest value is `lr` and least `lr_min`.
    """

    def rho_at(t: int) -> float:
        if name == "constant":
            return rho
        share = max(0.0, (eta(t) - lr_min) / (lr - lr_min)) if name == "proportional" else _decay(name, t / steps)
        return rho_min + (rho - rho_min) * share

    return rho_at
