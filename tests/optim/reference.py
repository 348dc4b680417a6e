"""The methods as their papers write them: a small numpy function for each, which shares no code with `sam_bench.optim`.

Letters: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the direction that the base optimizer is given, ρ the
radius. Norms and inner products are over all parameters together. `1e-12` keeps a denominator from 0.

Each function is a `Reference` of `sam_bench.testing`, so `check_method` takes it too. It returns v, and its keyword
arguments are the method's options. The tests of this folder extend that signature in two ways:

- `rho` may be one number for each parameter name, as parameter groups have.
- `gradient.parts`, if there is one, lists the parts of the batch as (share of the batch, gradient of the part). Each
  part then has its own perturbation, and `gradient(w)` is the mean over the parts.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sam_bench.testing import Weights

Gradient = Callable[[Weights], Weights]
Radius = float | dict[str, float]
Memory = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------------
# Vectors, and the two passes of a step
# ---------------------------------------------------------------------------------------------------------------------


def inner(a: Weights, b: Weights) -> float:
    """Return ⟨a, b⟩."""
    return sum(float(np.sum(a[n] * b[n])) for n in a)


def norm(a: Weights) -> float:
    """Return ‖a‖."""
    return math.sqrt(inner(a, a))


def unit(d: Weights) -> Weights:
    """Return d / ‖d‖."""
    length = norm(d) + 1e-12
    return {n: d[n] / length for n in d}


def projection(a: Weights, b: Weights) -> Weights:
    """Return (⟨a, b⟩ / ‖b‖²) b, the part of a along b; 0 if b is 0."""
    factor = inner(a, b) / inner(b, b) if norm(b) > 0 else 0.0
    return {n: factor * b[n] for n in b}


def clipped(x: Weights, max_norm: float | None) -> Weights:
    """Return x, or x scaled down to the norm `max_norm`."""
    factor = 1.0 if max_norm is None else min(1.0, max_norm / (norm(x) + 1e-6))
    return {n: factor * x[n] for n in x}


def full(like: Weights, value: float) -> Weights:
    """Return arrays of the given shapes, filled with one value."""
    return {n: np.full_like(like[n], value) for n in like}


def mean(parts: list[tuple[float, Weights]]) -> Weights:
    """Return the sum of share × x over the parts (share, x)."""
    return {n: sum(share * x[n] for share, x in parts) for n in parts[0][1]}


def ascend(w: Weights, rho: Radius, d: Weights) -> Weights:
    """Return w + ρ d."""
    return {n: w[n] + (rho[n] if isinstance(rho, dict) else rho) * d[n] for n in w}


def parts_of(gradient: Gradient) -> list[tuple[float, Any]]:
    """Return (share, gradient) for each part of the batch."""
    return getattr(gradient, "parts", [(1.0, gradient)])


def two_passes(
    gradient: Gradient, w: Weights, rho: Radius, direction: Callable[[Weights], Weights]
) -> tuple[Weights, Weights]:
    """Return g and h, which are the means of ∇L_i(w) and ∇L_i(w + ρ direction(∇L_i(w))) over the parts i of a batch."""
    all_g, all_h = [], []
    for share, part in parts_of(gradient):
        g = part(w)
        all_g.append((share, g))
        all_h.append((share, part(ascend(w, rho, direction(g)))))
    return mean(all_g), mean(all_h)


def scaled_unit(g: Weights, T: Weights) -> Weights:
    """Return T² g / ‖T g‖."""
    scaled = unit({n: T[n] * g[n] for n in g})
    return {n: T[n] * scaled[n] for n in g}


def sam_direction(w: Weights, g: Weights, adaptive: bool) -> Weights:
    """Return SAM's direction g / ‖g‖, or ASAM's T² g / ‖T g‖ with T = |w|."""
    return scaled_unit(g, {n: np.abs(w[n]) for n in w}) if adaptive else unit(g)


def sam_passes(gradient: Gradient, w: Weights, rho: Radius, adaptive: bool) -> tuple[Weights, Weights]:
    """Return g and h for SAM's perturbation, or ASAM's."""
    return two_passes(gradient, w, rho, lambda g: sam_direction(w, g, adaptive))


def next_step(memory: Memory) -> int:
    """Return the number of this step, counted from 0 in the memory."""
    memory["t"] = memory.get("t", -1) + 1
    return memory["t"]


# ---------------------------------------------------------------------------------------------------------------------
# Methods that differ in the perturbation
# ---------------------------------------------------------------------------------------------------------------------


def sgd(gradient, w, rho, memory):
    """Return v = g. Robbins & Monro (1951)."""
    return gradient(w)


def sam(gradient, w, rho, memory, *, adaptive=False):
    """Return v = h with e = ρ g / ‖g‖. Foret et al. (2021), arXiv:2010.01412, equation 2."""
    return sam_passes(gradient, w, rho, adaptive)[1]


def asam(gradient, w, rho, memory):
    """Return v = h with e = ρ T² g / ‖T g‖, T = |w|. Kwon et al. (2021), arXiv:2102.11600, equation 8 with η = 0."""
    return sam(gradient, w, rho, memory, adaptive=True)


def asam_official(gradient, w, rho, memory, *, eta=0.01):
    """Return v = h with e = ρ T² g / ‖T g‖. Kwon et al. (2021), arXiv:2102.11600, equation 8.

    T = |w| + η in tensors named weight and 1 in all others, as in the authors' code.
    """
    T = {n: np.abs(w[n]) + eta if "weight" in n else np.ones_like(w[n]) for n in w}
    return two_passes(gradient, w, rho, lambda g: scaled_unit(g, T))[1]


def usam(gradient, w, rho, memory):
    """Return v = h with e = ρ g. Andriushchenko & Flammarion (2022), arXiv:2206.06232."""
    return two_passes(gradient, w, rho, lambda g: g)[1]


def unified_sam(gradient, w, rho, memory, *, lmbda=0.5):
    """Return v = h with e = ρ (1 − λ + λ / ‖g‖) g. Oikonomou & Loizou (2025), arXiv:2503.02225."""

    def direction(g: Weights) -> Weights:
        normalised = unit(g)
        return {n: (1 - lmbda) * g[n] + lmbda * normalised[n] for n in g}

    return two_passes(gradient, w, rho, direction)[1]


def sam_on(gradient, w, rho, memory, *, layers, adaptive=False):
    """Return v = h with SAM's e on normalisation layers and 0 elsewhere. Müller et al. (2023), arXiv:2306.04226.

    Args:
        layers: beginnings of the names of the parameters in normalisation layers.
    """

    def direction(g: Weights) -> Weights:
        return sam_direction(w, {n: g[n] * n.startswith(layers) for n in g}, adaptive)

    return two_passes(gradient, w, rho, direction)[1]


def zsharp(gradient, w, rho, memory, *, quantile=0.95):
    """Return v = h with e = ρ k / ‖k‖ in each tensor. Yun (2025), arXiv:2505.02369.

    k is g where |z| is above its Q-quantile, else 0; z = (g − mean) / std within the tensor. Tensors of one dimension,
    and those with k = 0, have SAM's e.
    """

    def direction(g: Weights) -> Weights:
        d = unit(g)
        for n in g:
            z = np.abs(g[n] - np.mean(g[n]))  # times 1 / std, which changes no order
            k = np.where(z > np.quantile(z, quantile), g[n], 0.0)
            if g[n].ndim > 1 and np.any(k):
                d[n] = k / (np.linalg.norm(k) + 1e-12)
        return d

    return two_passes(gradient, w, rho, direction)[1]


def fsam(gradient, w, rho, memory, *, sigma=1.0, lmbda=0.9):
    """Return v = h with e = ρ d / ‖d‖, d = g − σ m. Li et al. (2024), arXiv:2403.12350.

    Then m ← λ m + (1 − λ) g; m is 0 in the first step, and g after it.
    """
    m = memory.get("m", full(w, 0.0))
    g, h = two_passes(gradient, w, rho, lambda g: unit({n: g[n] - sigma * m[n] for n in g}))
    memory["m"] = {n: lmbda * m[n] + (1 - lmbda) * g[n] for n in g} if "m" in memory else g
    return h


def vasso(gradient, w, rho, memory, *, theta=0.9):
    """Return v = h with e = ρ d / ‖d‖, d ← (1 − θ) d + θ g, first 0. Li & Giannakis (2023), arXiv:2309.15639."""
    d = memory.get("d", full(w, 0.0))

    def average(g: Weights) -> Weights:
        return {n: (1 - theta) * d[n] + theta * g[n] for n in g}

    g, h = two_passes(gradient, w, rho, lambda g: unit(average(g)))
    memory["d"] = average(g)
    return h


def msam(gradient, w, rho, memory, *, base):
    """Return v = ∇L(w − ρ m / ‖m‖), m the base optimizer's momentum. Becker et al. (2024), arXiv:2401.12033."""
    m = unit(base.m or full(w, 0.0))
    return gradient(ascend(w, rho, {n: -m[n] for n in m}))


def esam(gradient, w, rho, memory, *, draw, beta=0.6, gamma=0.5, adaptive=False):
    """Return v = h on the ⌈γ n⌉ examples whose loss rises most from w to w + e. Du et al. (2022), arXiv:2110.03141.

    e is SAM's times mask / β, where the mask is 1 with probability β, else 0.

    Args:
        gradient: has two more methods, `with_losses(w)` for the examples' losses and the gradient, and `losses(w)`. An
            index of examples may follow `w` in `gradient(w, examples)`.
        draw: returns a step's numbers from 0 to 1, of which those below β are a mask of 1.
    """
    uniform = draw(next_step(memory), w)
    all_h = []
    for share, part in parts_of(gradient):
        losses, g = part.with_losses(w)
        d = sam_direction(w, g, adaptive)
        perturbed = ascend(w, rho, {n: (uniform[n] < beta) / beta * d[n] for n in d})
        rise = part.losses(perturbed) - losses
        count = max(1, math.ceil(round(gamma * len(rise), 9)))
        chosen = np.sort(np.argsort(-rise, kind="stable")[:count])
        all_h.append((share, part(perturbed, chosen)))
    return mean(all_h)


# ---------------------------------------------------------------------------------------------------------------------
# Methods that combine g and h
# ---------------------------------------------------------------------------------------------------------------------


def gsam(gradient, w, rho, memory, *, alpha=0.4, adaptive=True):
    """Return v = h − α g⊥, g⊥ = g − (⟨g, h⟩ / ‖h‖²) h. Zhuang et al. (2022), arXiv:2203.08065."""
    g, h = sam_passes(gradient, w, rho, adaptive)
    along_h = projection(g, h)
    return {n: h[n] - alpha * (g[n] - along_h[n]) for n in g}


def gnp(gradient, w, rho, memory, *, b=0.8, adaptive=False):
    """Return v = (1 − b) g + b h. Zhao et al. (2022), arXiv:2202.03599."""
    g, h = sam_passes(gradient, w, rho, adaptive)
    return {n: (1 - b) * g[n] + b * h[n] for n in g}


def wsam(gradient, w, rho, memory, *, gamma=0.9, decouple=True, adaptive=False, max_norm=None):
    """Return v = (1 − a) g + a h, a = γ / (1 − γ). Yue et al. (2023), arXiv:2305.15817.

    If it is decoupled, v = g, and the base's step is followed by w ← w − η a (h − g): whoever takes the steps finds
    a (h − g) in the memory as "correction", and removes it.
    """
    g, h = (clipped(x, max_norm) for x in sam_passes(gradient, w, rho, adaptive))
    a = gamma / (1 - gamma)
    if decouple:
        memory["correction"] = {n: a * (h[n] - g[n]) for n in g}
        return g
    return {n: (1 - a) * g[n] + a * h[n] for n in g}


def stable_sam(gradient, w, rho, memory, *, adaptive=False):
    """Return v = (‖g‖ / ‖h‖) h, or 0 if h is 0. Tan et al. (2024), arXiv:2401.07250."""
    g, h = sam_passes(gradient, w, rho, adaptive)
    ratio = norm(g) / norm(h) if norm(h) > 0 else 0.0
    return {n: ratio * h[n] for n in h}


def saner(gradient, w, rho, memory, *, alpha=0.5, adaptive=False):
    """Return v = (1 − α) h in elements with 0 < h / g < 1, else h. Luong et al. (2024), arXiv:2411.17132."""
    g, h = sam_passes(gradient, w, rho, adaptive)
    v = {}
    for n in h:
        ratio = np.divide(h[n], g[n], out=np.zeros_like(h[n]), where=g[n] != 0)
        v[n] = np.where((ratio > 0) & (ratio < 1), (1 - alpha) * h[n], h[n])
    return v


def sampa(gradient, w, rho, memory, *, base, lmbda=0.2):
    """Return v = (1 − λ) h + λ g, then q ← g. Xie et al. (2024), arXiv:2410.10683.

    g is the gradient at the weights to which the base optimizer would step along q, and h that of the previous batch at
    w + ρ q / ‖q‖. q starts at 0.
    """
    q = memory.get("q", full(w, 0.0))
    g = gradient(base.ahead(w, q))
    h = memory.get("previous", gradient)(ascend(w, rho, unit(q)))
    memory.update(q=g, previous=gradient)
    return {n: (1 - lmbda) * h[n] + lmbda * g[n] for n in g}


def bsam(gradient, w, rho, memory, *, draw, examples=200_000, delta=2e-4, gamma=0.1, beta_1=0.9, beta_2=0.999):
    """Return v = m / s with the new m and the old s. Möllenhoff & Khan (2023), arXiv:2210.01620, algorithm 1.

    g = ∇L(w + noise / √(N s)), and e = ρ g / s. m ← β₁ m + (1 − β₁) (h + δ w), first 0;
    s ← β₂ s + (1 − β₂) (√s |g| + γ + δ), first 1. Over the parts of a batch |g| is averaged, not g.

    Args:
        draw: returns the standard normal noise of a step and part.
    """
    t = next_step(memory)
    m, s = memory.get("m", full(w, 0.0)), memory.get("s", full(w, 1.0))
    all_g, all_h = [], []
    for number, (share, part) in enumerate(parts_of(gradient)):
        noise = draw(t, number, w)
        g = part({n: w[n] + noise[n] / np.sqrt(examples * s[n]) for n in w})
        all_g.append((share, {n: np.abs(g[n]) for n in g}))
        all_h.append((share, part(ascend(w, rho, {n: g[n] / s[n] for n in g}))))
    g, h = mean(all_g), mean(all_h)

    memory["m"] = {n: beta_1 * m[n] + (1 - beta_1) * (h[n] + delta * w[n]) for n in w}
    memory["s"] = {n: beta_2 * s[n] + (1 - beta_2) * (np.sqrt(s[n]) * g[n] + gamma + delta) for n in w}
    return {n: memory["m"][n] / s[n] for n in w}


# ---------------------------------------------------------------------------------------------------------------------
# Methods with a second pass in some steps only
# ---------------------------------------------------------------------------------------------------------------------


def sam_every_k(gradient, w, rho, memory, *, k=1, adaptive=False):
    """Return SAM's v in steps 0, k, 2k, …, else g. Liu et al. (2022), arXiv:2203.02714."""
    takes_sam = next_step(memory) % k == 0
    return sam(gradient, w, rho, memory, adaptive=adaptive) if takes_sam else gradient(w)


def looksam(gradient, w, rho, memory, *, k=5, alpha=0.7, adaptive=False):
    """Return SAM's v in steps 0, k, 2k, …, else v = g + α (‖g‖ / ‖h_v‖) h_v. Liu et al. (2022), arXiv:2203.02714.

    h_v = h − (⟨h, g⟩ / ‖g‖²) g is that of the last step of SAM.
    """
    if next_step(memory) % k == 0:
        g, h = sam_passes(gradient, w, rho, adaptive)
        along_g = projection(h, g)
        memory["h_v"] = {n: h[n] - along_g[n] for n in h}
        return h

    g = gradient(w)
    direction = unit(memory["h_v"])
    return {n: g[n] + alpha * norm(g) * direction[n] for n in g}


def ss_sam(gradient, w, rho, memory, *, draw, p=0.5, adaptive=False):
    """Return SAM's v with probability p, else g. Zhao et al. (2022), arXiv:2203.09962.

    Args:
        draw: returns a step's number from 0 to 1; below p the step is SAM's.
    """
    takes_sam = draw(next_step(memory)) < p
    return sam(gradient, w, rho, memory, adaptive=adaptive) if takes_sam else gradient(w)


def ae_sam(
    gradient, w, rho, memory, *, total_steps, delta=0.9, lambda_1=-1.0, lambda_2=1.0, adaptive=False, first_step=0
):
    """Return SAM's v if ‖g‖² ≥ μ + c_t σ, else g. Jiang et al. (2023), arXiv:2304.14647.

    Before that μ ← δ μ + (1 − δ) ‖g‖² and σ² ← δ σ² + (1 − δ) (‖g‖² − μ)², both first 0; and
    c_t = (t / T) λ₁ + (1 − t / T) λ₂. Over the parts of a batch ‖g‖² is averaged, and all parts take the same decision.

    Args:
        total_steps: T.
        first_step: t in the first step that is the method's.
    """
    elapsed = (first_step + next_step(memory)) / total_steps
    parts = parts_of(gradient)
    all_g = [(share, part(w)) for share, part in parts]
    squared_norm = sum(share * inner(g, g) for share, g in all_g)

    mu = delta * memory.get("mu", 0.0) + (1 - delta) * squared_norm
    variance = delta * memory.get("variance", 0.0) + (1 - delta) * (squared_norm - mu) ** 2
    memory.update(mu=mu, variance=variance)
    threshold = mu + (elapsed * lambda_1 + (1 - elapsed) * lambda_2) * math.sqrt(variance)
    if squared_norm < threshold:
        return mean(all_g)

    perturbed = [ascend(w, rho, sam_direction(w, g, adaptive)) for _, g in all_g]
    return mean([(share, part(x)) for (share, part), x in zip(parts, perturbed, strict=True)])


_FUNCTIONS = (
    *(sgd, sam, asam, asam_official, usam, unified_sam, sam_on, zsharp, fsam, vasso, msam, esam),
    *(gsam, gnp, wsam, stable_sam, saner, sampa, bsam),
    *(sam_every_k, looksam, ss_sam, ae_sam),
)

#: The methods by name. Arguments without a default must be bound before `check_method` can take a function.
REFERENCES: dict[str, Callable[..., Weights]] = {function.__name__: function for function in _FUNCTIONS}
REFERENCES["wasam"] = sam  # an average of the weights is no part of a step


# ---------------------------------------------------------------------------------------------------------------------
# Schedules
# ---------------------------------------------------------------------------------------------------------------------


def lr_at(
    name: str,
    step: int,
    steps: int,
    warmup_steps: int,
    lr: float,
    lr_min: float,
    milestones: tuple[float, ...] = (0.3, 0.6, 0.8),
    gamma: float = 0.2,
) -> float:
    """Return the learning rate of a step, counted from 0; milestones are shares of all steps, warm-up included."""
    if name not in ("step", "cosine", "linear", "constant"):
        raise ValueError(f"unknown learning-rate schedule {name!r}")
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if name == "constant":
        return lr
    if name == "step":
        return lr * gamma ** sum(step >= round(m * steps, 9) for m in milestones)
    done = (step - warmup_steps) / (steps - warmup_steps)
    if name == "cosine":
        return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * done)) / 2
    return lr_min + (lr - lr_min) * (1 - done)


def rho_at(
    name: str,
    step: int,
    steps: int,
    rho: float,
    rho_min: float,
    lr: float,
    lr_max: float,
    lr_min: float,
) -> float:
    """Return the radius of a step, counted from 0.

    "proportional" is GSAM's (ρ_t − ρ_min) / (ρ − ρ_min) = (η_t − η_min) / (η_max − η_min), at least ρ_min. It is ρ if
    η_max = η_min.

    Args:
        rho: the greatest radius.
        lr: the learning rate of this step.
    """
    if name == "constant":
        return rho
    if name == "linear":
        return rho_min + (rho - rho_min) * (1 - step / steps)
    if name == "cosine":
        return rho_min + (rho - rho_min) * (1 + math.cos(math.pi * step / steps)) / 2
    if name == "proportional":
        if lr_max == lr_min:
            return rho
        return max(rho_min, rho_min + (rho - rho_min) * (lr - lr_min) / (lr_max - lr_min))
    raise ValueError(f"unknown radius schedule {name!r}")
