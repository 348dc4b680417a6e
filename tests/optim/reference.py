"""Plain float64 numpy reference of SGD, SAM, ASAM and GSAM, written only from the papers' formulas.

Slow on purpose: explicit loops over parameter names, no shared code with the engine that is tested against it.
Names: w weights, g = grad L(w), e perturbation, h = grad L(w + e), v what the base optimizer gets,
rho radius. Norms and inner products are global, over all parameters that have a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Weights = dict[str, np.ndarray]  # float64, by parameter name
Oracle = Callable[[Weights], tuple[float, Weights]]  # loss and gradient; a name missing there has no gradient

METHODS = ("sgd", "sam", "asam", "asam_official", "gsam")


# ---------------------------------------------------------------------------------------------------------------------
# Global vector operations
# ---------------------------------------------------------------------------------------------------------------------


def copy(a: Weights) -> Weights:
    """Independent float64 copy of every tensor."""
    return {name: np.array(a[name], dtype=np.float64) for name in a}


def inner(a: Weights, b: Weights) -> float:
    """<a, b>, over all tensors together; both have the same names."""
    total = 0.0
    for name in a:
        total += float(np.sum(a[name] * b[name]))
    return total


def norm(a: Weights) -> float:
    """||a||, over all tensors together."""
    return math.sqrt(inner(a, a))


def finite(a: Weights) -> bool:
    """True when no tensor holds a NaN or an infinity."""
    return all(bool(np.all(np.isfinite(a[name]))) for name in a)


# ---------------------------------------------------------------------------------------------------------------------
# Base optimizers: B(v)
# ---------------------------------------------------------------------------------------------------------------------


class SGDBase:
    """torch.optim.SGD's documented rule, dampening 0; weight decay is added to v (L2), the first buffer is that sum."""

    def __init__(self, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False):
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.buffer: Weights = {}

    def update(self, w: Weights, v: Weights, lr: float | None = None) -> Weights:
        """d = v + wd w;  b = mu b + d (first b = d);  d = d + mu b if nesterov else b;  w <- w - lr d."""
        lr = self.lr if lr is None else lr
        new = copy(w)
        for name in v:
            d = v[name] + self.weight_decay * w[name]
            if self.momentum != 0.0:
                if name in self.buffer:
                    self.buffer[name] = self.momentum * self.buffer[name] + d
                else:
                    self.buffer[name] = d.copy()
                d = d + self.momentum * self.buffer[name] if self.nesterov else self.buffer[name]
            new[name] = w[name] - lr * d
        return new


class AdamWBase:
    """torch.optim.AdamW's documented rule (decoupled decay, no amsgrad); each parameter counts its own steps."""

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.m: Weights = {}  # first moment
        self.s: Weights = {}  # second moment
        self.t: dict[str, int] = {}  # steps taken

    def update(self, w: Weights, v: Weights, lr: float | None = None) -> Weights:
        """m = b1 m + (1-b1) v;  s = b2 s + (1-b2) v^2;  w <- w - lr wd w - lr m^ / (sqrt(s^) + eps)."""
        lr = self.lr if lr is None else lr
        beta1, beta2 = self.betas
        new = copy(w)
        for name in v:
            if name not in self.t:
                self.m[name] = np.zeros_like(w[name])
                self.s[name] = np.zeros_like(w[name])
                self.t[name] = 0
            self.t[name] += 1
            self.m[name] = beta1 * self.m[name] + (1.0 - beta1) * v[name]
            self.s[name] = beta2 * self.s[name] + (1.0 - beta2) * v[name] ** 2
            m_hat = self.m[name] / (1.0 - beta1 ** self.t[name])
            s_hat = self.s[name] / (1.0 - beta2 ** self.t[name])
            decayed = w[name] - lr * self.weight_decay * w[name]
            new[name] = decayed - lr * m_hat / (np.sqrt(s_hat) + self.eps)
        return new


# ---------------------------------------------------------------------------------------------------------------------
# Methods: direction(w, g) -> e and combine(g, h) -> v
# ---------------------------------------------------------------------------------------------------------------------


class Reference:
    """One method on a base optimizer.

    Options: alpha and adaptive (gsam only: adaptive takes ASAM's perturbation, else SAM's), eta (asam_official only).
    `passes` counts oracle calls, `skipped` the steps left out for a NaN or an infinity in a gradient.
    """

    def __init__(
        self,
        method: str,
        base,
        rho: float = 0.0,
        *,
        alpha: float = 0.4,
        adaptive: bool = True,
        eta: float = 0.01,
    ):
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}, expected one of {METHODS}")
        self.method = method
        self.base = base
        self.rho = rho
        self.alpha = alpha
        self.adaptive = adaptive
        self.eta = eta
        self.passes = 0
        self.skipped = 0

    def scale(self, w: Weights, g: Weights) -> Weights:
        """T: 1 for SAM; |w| for ASAM; |w| + eta on names with "weight" and 1 elsewhere for ASAM as published."""
        T = {}
        for name in g:
            if self.method == "asam" or (self.method == "gsam" and self.adaptive):
                T[name] = np.abs(w[name])
            elif self.method == "asam_official" and "weight" in name:
                T[name] = np.abs(w[name]) + self.eta
            else:
                T[name] = np.ones_like(w[name])
        return T

    def perturbation(self, w: Weights, g: Weights, rho: float) -> Weights:
        """e = rho T^2 g / (||T g|| + 1e-12), which is SAM's rho g / (||g|| + 1e-12) at T = 1; e = 0 for SGD."""
        if self.method == "sgd":
            return {name: np.zeros_like(g[name]) for name in g}
        T = self.scale(w, g)
        Tg = {name: T[name] * g[name] for name in g}
        denominator = norm(Tg) + 1e-12
        e = {}
        for name in g:
            e[name] = rho * T[name] ** 2 * g[name] / denominator
        return e

    def combine(self, g: Weights, h: Weights) -> Weights:
        """v = g for SGD, h for SAM and ASAM, h - alpha (g - (<g,h> / ||h||^2) h) for GSAM (h - alpha g at h = 0)."""
        if self.method == "sgd":
            return copy(g)
        if self.method != "gsam":
            return copy(h)
        if g.keys() != h.keys():
            raise ValueError("GSAM needs g and h on the same parameters")
        gh = inner(g, h)
        hh = inner(h, h)
        along = gh / hh if hh != 0.0 else 0.0
        v = {}
        for name in h:
            v[name] = h[name] - self.alpha * (g[name] - along * h[name])
        return v

    def step(
        self, w: Weights, oracle: Oracle, rho: float | None = None, lr: float | None = None
    ) -> tuple[float, Weights]:
        """g = grad L(w);  e = direction(w, g);  h = grad L(w + e);  w <- B(combine(g, h)).  Returns L(w), new w."""
        rho = self.rho if rho is None else rho
        loss, g = self._pass(oracle, w)
        if not finite(g):
            self.skipped += 1
            return loss, copy(w)
        if self.method == "sgd":
            return loss, self.base.update(w, g, lr)

        e = self.perturbation(w, g, rho)
        perturbed = copy(w)
        for name in e:
            perturbed[name] = w[name] + e[name]
        _, h = self._pass(oracle, perturbed)
        if not finite(h):
            self.skipped += 1
            return loss, copy(w)
        return loss, self.base.update(w, self.combine(g, h), lr)

    def _pass(self, oracle: Oracle, w: Weights) -> tuple[float, Weights]:
        """One counted oracle call, on copies both ways."""
        self.passes += 1
        loss, gradient = oracle(copy(w))
        return float(loss), copy(gradient)


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
    """Learning rate of step `step` (from 0) of `steps`; milestones are shares of all steps, warm-up included."""
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
    """Radius of step `step` (from 0) of `steps`; rho is rho_max, lr this step's learning rate.

    "proportional" is GSAM's (rho_t - rho_min) / (rho_max - rho_min) = (lr_t - lr_min) / (lr_max - lr_min), clamped at
    rho_min; rho_max where lr_max = lr_min leaves it undefined.
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
