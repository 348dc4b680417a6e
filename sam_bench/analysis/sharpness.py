"""Measures of how much the loss rises around the weights: at worst in a ball, and on average.

Each measure has an adaptive version, whose coordinates are scaled by T = |w| (Kwon et al., 2021, arXiv:2102.11600). It
does not change when layers are rescaled without changing the network's function.

Letters: L is the loss, w are the weights, g = ∇L(w), e is a perturbation, and ρ is the radius of a ball.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sam_bench.analysis.objective import Objective
from sam_bench.analysis.spectrum import Estimate


class WorstCase(NamedTuple):
    """The rise of the loss in nats, `L(w + e) − L(w)`, for two choices of e."""

    #: For SAM's perturbation `ρ g/‖g‖`, or ASAM's `ρ T² g/‖T g‖`.
    one_step: float
    #: For the worst e of an ascent that starts there; at least `one_step`.
    ascent: float


def worst_case(
    objective: Objective,
    w: Tensor,
    rho: float,
    steps: int,
    adaptive: bool = False,
    known: tuple[float, Tensor] | None = None,
) -> WorstCase:
    """Estimate `max L(w + e) − L(w)` over `‖e‖ ≤ ρ`, or over `‖e/T‖ ≤ ρ` (Foret et al., 2021, arXiv:2010.01412).

    Each step of the ascent goes to the point of the ball that is farthest along the gradient at the previous point. For
    a convex loss this never descends (the power method of Journée et al., 2010, arXiv:0811.4724).

    Args:
        steps: number of ascent steps; each takes a gradient.
        known: L(w) and ∇L(w), if they have been computed already.

    Returns:
        Both rises; infinity if the loss at the perturbed weights is not finite.

    Raises:
        ValueError: ρ is not above 0, or the number of steps is below 0.
    """
    if not rho > 0 or steps < 0:
        raise ValueError(f"rho={rho} must be above 0, and steps={steps} must be at least 0")

    scale = w.abs() if adaptive else torch.ones_like(w)
    loss, gradient = known or objective.gradient(w)
    rises = []
    for step in range(steps + 1):
        scaled = scale * gradient
        e = (rho / (scaled.norm() + 1e-12)) * scale * scaled
        if step < steps:
            perturbed_loss, gradient = objective.gradient(w + e)
        else:
            perturbed_loss = objective.value(w + e).loss  # nothing follows that would need a gradient
        rises.append(perturbed_loss - loss if math.isfinite(perturbed_loss) else math.inf)

    return WorstCase(rises[0], max(rises))


def m_sharpness(objective: Objective, w: Tensor, rho: float, adaptive: bool = False) -> float:
    """Return the mean over batches B of `L_B(w + e_B) − L_B(w)`, in nats, where e_B is the one-step perturbation for B.

    With `batchnorm="batch"` and batches of m images, this is the term that SAM adds to the loss (Foret et al., 2021,
    arXiv:2010.01412, section 3).

    Raises:
        ValueError: ρ is not above 0.
    """
    return sum(share * worst_case(batch, w, rho, 0, adaptive).one_step for batch, share in objective.by_batch())


def average_case(
    objective: Objective, w: Tensor, sigma: float, draws: int, adaptive: bool = False, seed: int = 0
) -> Estimate:
    """Estimate the mean of `L(w + δ) − L(w)` for `δ ~ N(0, σ²)` in each coordinate, or `N(0, σ² w²)` if adaptive.

    The definition is that of Andriushchenko et al. (2023, arXiv:2302.07011). Each δ is used together with −δ, which
    cancels the slope.

    Args:
        sigma: σ, the standard deviation.
        draws: number of pairs of perturbations, which take two passes each.
        seed: the seed of the perturbations.

    Raises:
        ValueError: σ is not above 0, or draws is below 1.
    """
    if not sigma > 0 or draws < 1:
        raise ValueError(f"sigma={sigma} must be above 0, and draws={draws} must be at least 1")

    generator = torch.Generator().manual_seed(seed)
    scale = w.abs() if adaptive else torch.ones_like(w)
    loss = objective.value(w).loss
    rises = []
    for _ in range(draws):
        delta = sigma * scale * torch.randn(w.numel(), generator=generator, dtype=w.dtype).to(w.device)
        rises.append(sum(objective.value(w + sign * delta).loss for sign in (1, -1)) / 2 - loss)

    mean = sum(rises) / draws
    variance = sum((rise - mean) ** 2 for rise in rises) / max(draws - 1, 1)
    return Estimate(mean, math.sqrt(variance / draws) if draws > 1 else math.nan)
