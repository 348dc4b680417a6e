"""How much the loss rises around the weights: at worst in a ball, and on average.

Each measure has an adaptive version, in which the coordinates are scaled by T = |w| (Kwon et al., 2021,
arXiv:2102.11600), so that it does not change when layers are rescaled in a way that leaves the function as it is.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sam_bench.analysis.objective import Objective
from sam_bench.analysis.spectrum import Estimate


class WorstCase(NamedTuple):
    """The rise of the loss in nats, `L(w + e) − L(w)`, for two choices of e."""

    one_step: float
    """SAM's perturbation `ρ g/‖g‖`, or ASAM's `ρ T² g/‖T g‖`."""
    ascent: float
    """The worst e that was met on an ascent from there; at least `one_step`."""


def worst_case(
    objective: Objective,
    w: Tensor,
    rho: float,
    steps: int,
    adaptive: bool = False,
    known: tuple[float, Tensor] | None = None,
) -> WorstCase:
    """Estimate `max L(w + e) − L(w)` over `‖e‖ ≤ ρ`, or over `‖e/T‖ ≤ ρ` (Foret et al., 2021, arXiv:2010.01412).

    Each step of the ascent goes to the point of the ball that is farthest along the gradient at the last one, which for
    a convex loss never descends (the power method of Journée et al., 2010, arXiv:0811.4724).

    Args:
        steps: of the ascent; each takes a gradient.
        known: L(w) and ∇L(w), where they have been computed.

    Returns:
        Infinity where the loss was not finite.

    Raises:
        ValueError: ρ is not above 0, or the number of steps is below 0.
    """
    if not rho > 0 or steps < 0:
        raise ValueError(f"the radius, {rho}, must be above 0, and the number of steps, {steps}, not below 0")
    scale = w.abs() if adaptive else torch.ones_like(w)
    loss, gradient = known or objective.gradient(w)
    rises = []
    for step in range(steps + 1):
        scaled = scale * gradient
        e = (rho / (scaled.norm() + 1e-12)) * scale * scaled
        if step < steps:
            there, gradient = objective.gradient(w + e)
        else:
            there = objective.value(w + e).loss
        rises.append(there - loss if math.isfinite(there) else math.inf)
    return WorstCase(rises[0], max(rises))


def m_sharpness(objective: Objective, w: Tensor, rho: float, adaptive: bool = False) -> float:
    """Return the mean over the batches of `L_B(w + e_B) − L_B(w)`, in nats: each batch's rise by a step of its own.

    With `batchnorm="batch"` and batches of m images it is what SAM adds to the loss that it minimises (Foret et al.,
    2021, arXiv:2010.01412, section 3).

    Raises:
        ValueError: ρ is not above 0.
    """
    return sum(share * worst_case(batch, w, rho, 0, adaptive).one_step for batch, share in objective.by_batch())


def average_case(
    objective: Objective, w: Tensor, sigma: float, draws: int, adaptive: bool = False, seed: int = 0
) -> Estimate:
    """Estimate the mean of `L(w + δ) − L(w)`, `δ ~ N(0, σ²)` in each coordinate, or `N(0, σ² w²)`.

    As Andriushchenko et al. (2023, arXiv:2302.07011) define it. Each δ is taken with −δ, which takes the slope out.

    Args:
        sigma: σ, the standard deviation.
        draws: pairs of perturbations, two passes each.

    Raises:
        ValueError: σ is not above 0, or there is no draw.
    """
    if not sigma > 0 or draws < 1:
        raise ValueError(f"σ, {sigma}, must be above 0, and the number of draws, {draws}, at least 1")
    generator = torch.Generator().manual_seed(seed)
    scale = w.abs() if adaptive else torch.ones_like(w)
    loss = objective.value(w).loss
    rises = []
    for _ in range(draws):
        delta = sigma * scale * torch.randn(w.numel(), generator=generator, dtype=w.dtype).to(w.device)
        rises.append(sum(objective.value(w + sign * delta).loss for sign in (1, -1)) / 2 - loss)
    mean = sum(rises) / draws
    spread = sum((rise - mean) ** 2 for rise in rises) / max(draws - 1, 1)
    return Estimate(mean, math.sqrt(spread / draws) if draws > 1 else math.nan)
