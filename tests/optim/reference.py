"""Plain float64 numpy reference of the sharpness-aware methods, written only from the papers' formulas.

Slow on purpose: explicit loops over parameter names, no shared code with the engine that is tested against it.
Names: w weights, g = grad L(w), e perturbation, h = grad L(w + e), v what the base optimizer gets,
rho radius. Norms and inner products are global, over all parameters that have a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Weights = dict[str, np.ndarray]  # float64, by parameter name
Setting = float | dict[str, float]  # one number for all tensors, or one by parameter name (parameter groups)
Oracle = Callable[
    ..., tuple
]  # w -> loss and gradient; a name missing there has no gradient; ESAM's: see Reference.step
Parts = list[tuple[Oracle, float]]  # m-sharpness: oracles of the parts and their weights, which sum to 1

OPTIONS = {  # every method's own options and their defaults
    "sgd": {},
    "sam": {},
    "asam": {},
    "asam_official": {"eta": 0.01},
    "gsam": {"alpha": 0.4, "adaptive": True},
    "usam": {},
    "gnp": {"b": 0.8, "adaptive": False},
    "wsam": {"gamma": 0.9, "decouple": True, "adaptive": False, "max_norm": None},
    "wasam": {},
    "fsam": {"sigma": 1.0, "lmbda": 0.9},
    "vasso": {"theta": 0.9},
    "looksam": {"k": 5, "alpha": 0.7},
    "sam_every_k": {"k": 1},
    "msam": {},
    "sam_on": {"adaptive": False, "only": None},
    "stable_sam": {"adaptive": False},
    "saner": {"alpha": 0.5, "adaptive": False},
    "zsharp": {"quantile": 0.95},
    "ss_sam": {"p": 0.5, "adaptive": False, "coin": None},
    "ae_sam": {"delta": 0.9, "lambda_1": -1.0, "lambda_2": 1.0, "adaptive": False, "total_steps": None},
    "sampa": {"lmbda": 0.2},
    "bsam": {
        "examples": 200_000,
        "delta": 2e-4,
        "gamma": 0.1,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "noise": None,
    },
    "esam": {"beta": 0.6, "gamma": 0.5, "adaptive": False, "mask": None},
}
METHODS = tuple(OPTIONS)
IGNORED = ("alpha", "adaptive", "eta")  # accepted for every method, without effect where they are not its own


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


def plus(w: Weights, e: Weights) -> Weights:
    """w + e, where a name missing in e is left as it is."""
    moved = copy(w)
    for name in e:
        moved[name] = w[name] + e[name]
    return moved


def unit(d: Weights) -> Weights:
    """d / (||d|| + 1e-12)."""
    denominator = norm(d) + 1e-12
    return {name: d[name] / denominator for name in d}


def clip(x: Weights, max_norm: float | None) -> Weights:
    """x min(1, max_norm / (||x|| + 1e-6)); x where max_norm is None."""
    if max_norm is None:
        return copy(x)
    factor = min(1.0, max_norm / (norm(x) + 1e-6))
    return {name: factor * x[name] for name in x}


def filled(g: Weights, h: Weights) -> tuple[Weights, Weights]:
    """g and h on the names of both: a name that only one of the two has is zero in the other."""
    g_filled, h_filled = {}, {}
    for name in [*g, *(name for name in h if name not in g)]:
        g_filled[name] = g[name].copy() if name in g else np.zeros_like(h[name])
        h_filled[name] = h[name].copy() if name in h else np.zeros_like(g[name])
    return g_filled, h_filled


def weighted_mean(parts: list[tuple[Weights, float]]) -> Weights:
    """sum_i weight_i x_i; a name missing in a part is zero there, one missing in all parts is missing in the mean."""
    mean: Weights = {}
    for x, weight in parts:
        for name in x:
            mean[name] = mean[name] + weight * x[name] if name in mean else weight * x[name]
    return mean


def setting(value: Setting, name: str) -> float:
    """The tensor's own number: that of its group, or the one of all."""
    return value[name] if isinstance(value, dict) else value


# ---------------------------------------------------------------------------------------------------------------------
# Base optimizers: B(v)
# ---------------------------------------------------------------------------------------------------------------------


class SGDBase:
    """torch.optim.SGD's documented rule, dampening 0; weight decay is added to v (L2), the first buffer is that sum.

    lr and weight_decay: one number, or one by parameter name.
    """

    def __init__(self, lr: Setting, momentum: float = 0.9, weight_decay: Setting = 5e-4, nesterov: bool = False):
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.buffer: Weights = {}

    def update(self, w: Weights, v: Weights, lr: Setting | None = None) -> Weights:
        """d = v + wd w;  b = mu b + d (first b = d);  d = d + mu b if nesterov else b;  w <- w - lr d."""
        lr = self.lr if lr is None else lr
        new = copy(w)
        for name in v:
            d = v[name] + setting(self.weight_decay, name) * w[name]
            if self.momentum != 0.0:
                if name in self.buffer:
                    self.buffer[name] = self.momentum * self.buffer[name] + d
                else:
                    self.buffer[name] = d.copy()
                d = d + self.momentum * self.buffer[name] if self.nesterov else self.buffer[name]
            new[name] = w[name] - setting(lr, name) * d
        return new

    def ahead(self, w: Weights, v: Weights, lr: Setting) -> Weights:
        """The weights after `update`, without one."""
        other = SGDBase(self.lr, self.momentum, self.weight_decay, self.nesterov)
        other.buffer = copy(self.buffer)
        return other.update(w, v, lr)


class AdamWBase:
    """torch.optim.AdamW's documented rule (decoupled decay, no amsgrad); each parameter counts its own steps.

    lr and weight_decay: one number, or one by parameter name.
    """

    def __init__(
        self,
        lr: Setting = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Setting = 1e-2,
    ):
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.m: Weights = {}  # first moment
        self.s: Weights = {}  # second moment
        self.t: dict[str, int] = {}  # steps taken

    def update(self, w: Weights, v: Weights, lr: Setting | None = None) -> Weights:
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
            decayed = w[name] - setting(lr, name) * setting(self.weight_decay, name) * w[name]
            new[name] = decayed - setting(lr, name) * m_hat / (np.sqrt(s_hat) + self.eps)
        return new

    def ahead(self, w: Weights, v: Weights, lr: Setting) -> Weights:
        """w - lr v, which is SAMPa's look ahead on any base but SGD."""
        return {name: w[name] - setting(lr, name) * v[name] if name in v else w[name] for name in w}


# ---------------------------------------------------------------------------------------------------------------------
# Methods: direction(w, g) -> e / rho and combine(g, h) -> v
# ---------------------------------------------------------------------------------------------------------------------


class Reference:
    """One method on a base optimizer.

    rho: one radius, or one by parameter name. Options: the method's in OPTIONS, and clip_norm for every method.
    start: in the steps t < start the base optimizer is alone (Tail-SAM), and nothing is remembered.
    `only` (sam_on) is the set of perturbed names, `mask` (esam) a function of t that gives 0/1 arrays by name, `coin`
    (ss_sam) one of t - start that gives numbers from 0 to 1, `total_steps` (ae_sam) T, `noise` (bsam) one of t and the
    part's number that gives standard normal arrays by name.
    `passes` sums the parts' weights over the oracle calls, `skipped` counts the steps left out for a NaN or an
    infinity in a gradient, `t` all steps, those included.
    """

    def __init__(
        self, method: str, base, rho: Setting = 0.0, *, clip_norm: float | None = None, start: int = 0, **options
    ):
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}, expected one of {METHODS}")
        for option in options:
            if option not in OPTIONS[method] and option not in IGNORED:
                raise TypeError(f"{method} has no option {option!r}")
        self.method = method
        self.base = base
        self.rho = rho
        self.clip_norm = clip_norm
        self.start = start
        for option, value in {**OPTIONS[method], **options}.items():
            setattr(self, option, value)
        if method == "sam_on" and self.only is None:
            raise TypeError("sam_on needs only=<set of names>")
        if method == "esam" and self.mask is None:
            raise TypeError("esam needs mask=<function of t>")
        if method == "bsam" and self.noise is None:
            raise TypeError("bsam needs noise=<function of t and part>")
        self.passes = 0.0
        self.skipped = 0
        self.t = 0
        self.m: Weights = {}  # F-SAM's running mean of g
        self.d: Weights = {}  # VaSSO's
        self.h_v: Weights = {}  # LookSAM's part of h orthogonal to g
        self.q: Weights = {}  # SAMPa's gradient at the look ahead
        self.before: list[Oracle] = []  # and the parts of the batch of the step before
        self.momentum: Weights = {}  # bSAM's m
        self.s: Weights = {}  # and s
        self.mu, self.variance = 0.0, 0.0  # AE-SAM's averages of ||g||^2
        self.decided = True  # AE-SAM's decision about the present step

    def two_passes(self) -> bool:
        """Whether step t takes h: never for SGD and MSAM, every k-th step for LookSAM and SAM every k-th step.

        SS-SAM where its coin falls below p, AE-SAM where it was decided so.
        """
        if self.method in ("sgd", "msam") or self.t < self.start:
            return False
        if self.method in ("looksam", "sam_every_k"):
            return (self.t - self.start) % self.k == 0
        if self.method == "ss_sam":
            return self.coin(self.t - self.start) < self.p
        return self.decided

    def decide(self, w: Weights, parts: Parts) -> tuple[float, float]:
        """AE-SAM: n = ||g||^2, the mean over the parts;  mu <- delta mu + (1 - delta) n;

        sigma^2 <- delta sigma^2 + (1 - delta) (n - mu)^2;  h is taken where n >= mu + c sigma,
        c = (t/T) lambda_1 + (1 - t/T) lambda_2. Returns the new mu and sigma^2.
        """
        n = 0.0
        for oracle, weight in parts:
            n += weight * norm(oracle(copy(w))[1]) ** 2
        mu = self.delta * self.mu + (1.0 - self.delta) * n
        variance = self.delta * self.variance + (1.0 - self.delta) * (n - mu) ** 2
        c = self.t / self.total_steps * self.lambda_1 + (1.0 - self.t / self.total_steps) * self.lambda_2
        self.decided = n >= mu + c * math.sqrt(variance)
        return mu, variance

    def scale(self, w: Weights, g: Weights) -> Weights:
        """T: 1 for SAM; |w| for ASAM; |w| + eta on names with "weight" and 1 elsewhere for ASAM as published."""
        adaptive = self.method == "asam" or ("adaptive" in OPTIONS[self.method] and self.adaptive)
        T = {}
        for name in g:
            if adaptive:
                T[name] = np.abs(w[name])
            elif self.method == "asam_official" and "weight" in name:
                T[name] = np.abs(w[name]) + self.eta
            else:
                T[name] = np.ones_like(w[name])
        return T

    def direction(self, w: Weights, g: Weights) -> Weights:
        """The perturbation at radius one, from the remembered state as it is; a name missing in it is not perturbed.

        SGD 0;  USAM g;  MSAM -m / ||m|| with m the base's momentum;  F-SAM d / ||d||, d = g - sigma m;
        VaSSO d / ||d||, d = (1 - theta) d + theta g;  ZSharp see `outstanding`;
        all others T^2 g / ||T g||, for SAM-ON on its own names only, for ESAM times mask / beta.
        Every norm in a denominator + 1e-12.
        """
        if self.method == "sgd":
            return {name: np.zeros_like(g[name]) for name in g}
        if self.method == "usam":
            return copy(g)
        if self.method == "msam":
            m = unit(self.base.buffer if isinstance(self.base, SGDBase) else self.base.m)
            return {name: -m[name] for name in m}
        if self.method == "fsam":
            d = {}
            for name in g:
                d[name] = g[name] - self.sigma * self.m[name] if name in self.m else g[name]
            return unit(d)
        if self.method == "vasso":
            return unit(self.smoothed(g))
        if self.method == "sampa":
            return unit(self.known(self.q, g, 0.0))
        if self.method == "bsam":
            s = self.known(self.s, g, 1.0)
            return {name: g[name] / s[name] for name in g}
        if self.method == "zsharp":
            return self.outstanding(g)
        if self.method == "sam_on":
            g = {name: g[name] for name in g if name in self.only}
        T = self.scale(w, g)
        denominator = norm({name: T[name] * g[name] for name in g}) + 1e-12
        direction = {}
        for name in g:
            direction[name] = T[name] ** 2 * g[name] / denominator
        if self.method == "esam":
            mask = self.mask(self.t)
            for name in g:
                direction[name] = mask[name] / self.beta * direction[name]
        return direction

    def outstanding(self, g: Weights) -> Weights:
        """ZSharp, tensor by tensor: k / ||k||, k the elements of g with |g - mean| above their Q-quantile, 0 elsewhere;

        g / ||g||, as in SAM, where k is 0 or the tensor has fewer than two dimensions.
        """
        direction = unit(g)
        for name in g:
            if g[name].ndim > 1 and g[name].size:
                deviation = np.abs(g[name] - np.mean(g[name]))
                kept = np.where(deviation > np.quantile(deviation, self.quantile), g[name], 0.0)
                if np.any(kept != 0.0):
                    direction[name] = kept / (math.sqrt(float(np.sum(kept**2))) + 1e-12)
        return direction

    def known(self, x: Weights, like: Weights, first: float) -> Weights:
        """x on the names of `like`, `first` everywhere in a tensor that it has not yet."""
        return {name: x[name] if name in x else np.full_like(like[name], first) for name in like}

    def new_momentum(self, w: Weights, h: Weights) -> Weights:
        """bSAM's m <- beta_1 m + (1 - beta_1) (h + delta w)."""
        m = self.known(self.momentum, h, 0.0)
        return {name: self.beta_1 * m[name] + (1.0 - self.beta_1) * (h[name] + self.delta * w[name]) for name in h}

    def smoothed(self, g: Weights) -> Weights:
        """VaSSO's (1 - theta) d + theta g, d = 0 at a tensor's first step."""
        d = {}
        for name in g:
            before = self.d[name] if name in self.d else np.zeros_like(g[name])
            d[name] = (1.0 - self.theta) * before + self.theta * g[name]
        return d

    def perturbation(self, w: Weights, g: Weights, rho: Setting) -> Weights:
        """e = rho direction(w, g), each tensor with its own radius."""
        direction = self.direction(w, g)
        return {name: setting(rho, name) * direction[name] for name in direction}

    def combine(self, w: Weights, g: Weights, h: Weights) -> Weights:
        """v = h, but:

        one pass            g;  LookSAM  g + alpha (||g|| / (||h_v|| + 1e-12)) h_v
        GSAM                h - alpha (g - (<g,h> / ||h||^2) h), which is h - alpha g at h = 0
        GNP                 (1 - b) g + b h
        Stable SAM          (||g|| / ||h||) h, 0 at h = 0
        SAMPa               (1 - lmbda) h + lmbda g
        bSAM                m / s, the new m and the old s
        SANER               (1 - alpha) h where 0 < h / g < 1, element by element;  h elsewhere
        WSAM, coupled       (1 - a) g + a h, a = gamma / (1 - gamma);  decoupled  g;  g and h clipped to max_norm
        """
        if not self.two_passes():
            if self.method != "looksam" or self.t < self.start:
                return copy(g)
            h_v = {name: self.h_v[name] if name in self.h_v else np.zeros_like(g[name]) for name in g}
            ratio = norm(g) / (norm(h_v) + 1e-12)
            return {name: g[name] + self.alpha * ratio * h_v[name] for name in g}

        if self.method == "gsam":
            g, h = filled(g, h)
            gh = inner(g, h)
            hh = inner(h, h)
            along = gh / hh if hh != 0.0 else 0.0
            return {name: h[name] - self.alpha * (g[name] - along * h[name]) for name in g}
        if self.method == "stable_sam":
            g, h = filled(g, h)
            ratio = norm(g) / norm(h) if norm(h) != 0.0 else 0.0
            return {name: ratio * h[name] for name in h}
        if self.method == "saner":
            g, h = filled(g, h)
            v = copy(h)
            for name in h:
                for place in np.ndindex(h[name].shape):
                    if g[name][place] != 0.0 and 0.0 < h[name][place] / g[name][place] < 1.0:
                        v[name][place] = (1.0 - self.alpha) * h[name][place]
            return v
        if self.method == "sampa":
            g, h = filled(g, h)
            return {name: (1.0 - self.lmbda) * h[name] + self.lmbda * g[name] for name in h}
        if self.method == "bsam":
            m, s = self.new_momentum(w, h), self.known(self.s, h, 1.0)
            return {name: m[name] / s[name] for name in h}
        if self.method == "gnp":
            g, h = filled(g, h)
            return {name: (1.0 - self.b) * g[name] + self.b * h[name] for name in g}
        if self.method == "wsam":
            g, h = filled(g, h)
            g, h = clip(g, self.max_norm), clip(h, self.max_norm)
            if self.decouple:
                return g
            a = self.gamma / (1.0 - self.gamma)
            return {name: (1.0 - a) * g[name] + a * h[name] for name in g}
        return copy(h)

    def correct(self, w: Weights, g: Weights, h: Weights, lr: Setting) -> Weights:
        """After B, decoupled WSAM only: w <- w - lr a (h - g), a = gamma / (1 - gamma), g and h clipped to max_norm."""
        new = copy(w)
        if self.method == "wsam" and self.decouple and self.two_passes():
            g, h = filled(g, h)
            g, h = clip(g, self.max_norm), clip(h, self.max_norm)
            a = self.gamma / (1.0 - self.gamma)
            for name in g:
                new[name] = w[name] - setting(lr, name) * a * (h[name] - g[name])
        return new

    def remember(self, w: Weights, g: Weights, h: Weights) -> None:
        """F-SAM: m <- lmbda m + (1 - lmbda) g (first m = g);  VaSSO: d <- (1 - theta) d + theta g;

        LookSAM, at its SAM steps: h_v <- h - (<h,g> / ||g||^2) g (h at g = 0);  SAMPa: q <- g;
        bSAM: m as `new_momentum`, s <- beta_2 s + (1 - beta_2) (sqrt(s) |g| + gamma + delta).
        """
        if not self.two_passes():
            return
        if self.method == "fsam":
            for name in g:
                if name in self.m:
                    self.m[name] = self.lmbda * self.m[name] + (1.0 - self.lmbda) * g[name]
                else:
                    self.m[name] = g[name].copy()
        if self.method == "vasso":
            self.d.update(self.smoothed(g))
        if self.method == "sampa":
            self.q = copy(g)
        if self.method == "bsam":
            self.momentum, s = self.new_momentum(w, h), self.known(self.s, h, 1.0)
            for name in h:
                grown = np.sqrt(s[name]) * g[name] + self.gamma + self.delta
                self.s[name] = self.beta_2 * s[name] + (1.0 - self.beta_2) * grown
        if self.method == "looksam":
            g, h = filled(g, h)
            hg = inner(h, g)
            gg = inner(g, g)
            along = hg / gg if gg != 0.0 else 0.0
            for name in g:
                self.h_v[name] = h[name] - along * g[name]

    def step(
        self,
        w: Weights,
        oracle: Oracle | Parts,
        rho: Setting | None = None,
        lr: Setting | None = None,
    ) -> tuple[float, Weights]:
        """g_i = grad L_i(w);  e_i = rho direction(w, g_i);  h_i = grad L_i(w + e_i);  g, h their weighted means;

        w <- B(combine(g, h)), corrected. Returns L(w) (MSAM: of its one pass, at w + e) and the new w.
        A list of (oracle, weight) is m-sharpness, one oracle is a single part of weight 1. ESAM's oracle is
        oracle(w, examples=None, gradient=True) -> per-example losses, gradient of their mean or None.
        """
        rho = self.rho if rho is None else rho
        parts = oracle if isinstance(oracle, list) else [(oracle, 1.0)]
        if abs(sum(weight for _, weight in parts) - 1.0) > 1e-9:
            raise ValueError("the parts' weights must sum to 1")

        decides = self.method == "ae_sam" and self.t >= self.start
        averages = self.decide(w, parts) if decides else (self.mu, self.variance)
        loss = 0.0
        healthy = True
        all_g, all_h = [], []
        lr = self.base.lr if lr is None else lr
        for number, (part, weight) in enumerate(parts):
            if self.method in ("sampa", "bsam"):
                loss_i, g_i, h_i = self._gradients_ahead(w, part, weight, rho, lr, number)
            else:
                loss_i, g_i, h_i = self._gradients(w, part, weight, rho)
            loss += weight * loss_i
            healthy = healthy and finite(g_i) and finite(h_i)
            all_g.append((g_i, weight))
            all_h.append((h_i, weight))

        if healthy:
            g, h = weighted_mean(all_g), weighted_mean(all_h)
            v = clip(self.combine(w, g, h), self.clip_norm)
            new = self.base.update(w, v, lr)
            new = self.correct(new, g, h, lr)
            self.remember(w, g, h)
            self.mu, self.variance = averages
        else:
            self.skipped += 1
            new = copy(w)
        self.t += 1
        self.before = [oracle for oracle, _ in parts]
        return loss, new

    def _gradients_ahead(
        self, w: Weights, oracle: Oracle, weight: float, rho: Setting, lr: Setting, number: int
    ) -> tuple[float, Weights, Weights]:
        """Both gradients at perturbed weights.

        SAMPa: g at where the base would go with q, and h on the batch of the step before;
        bSAM: g at w + n / sqrt(N s), and |g| in its place.
        """
        if not self.two_passes():
            loss, g = self._pass(oracle, w, weight)
            return loss, g, {}
        if self.method == "sampa":
            before = self.before[number] if self.before else oracle
            learning = oracle(copy(w))[1]
            loss, g = self._pass(oracle, self.base.ahead(w, self.known(self.q, learning, 0.0), lr), weight)
            if not finite(g):
                return loss, g, {}
            _, h = self._pass(before, plus(w, self.perturbation(w, g, rho)), weight)
            return loss, g, h
        n = self.noise(self.t, number)
        s = self.known(self.s, n, 1.0)
        loss, g = self._pass(oracle, plus(w, {k: n[k] / np.sqrt(self.examples * s[k]) for k in n}), weight)
        if not finite(g):
            return loss, g, {}
        _, h = self._pass(oracle, plus(w, self.perturbation(w, g, rho)), weight)
        return loss, {name: np.abs(g[name]) for name in g}, h

    def _gradients(self, w: Weights, oracle: Oracle, weight: float, rho: Setting) -> tuple[float, Weights, Weights]:
        """A part's loss, g and h; h is empty on a one-pass step and after a g that is not finite."""
        if self.method == "esam":
            return self._esam_gradients(w, oracle, weight, rho)
        if self.method == "msam":
            loss, g = self._pass(oracle, plus(w, self.perturbation(w, {}, rho)), weight)
            return loss, g, {}
        loss, g = self._pass(oracle, w, weight)
        if not self.two_passes() or not finite(g):
            return loss, g, {}
        _, h = self._pass(oracle, plus(w, self.perturbation(w, g, rho)), weight)
        return loss, g, h

    def _esam_gradients(
        self, w: Weights, oracle: Oracle, weight: float, rho: Setting
    ) -> tuple[float, Weights, Weights]:
        """h at w + e over the ceil(gamma n) examples whose loss rises most from w to w + e (ties: the first ones)."""
        self.passes += weight
        losses, g = oracle(copy(w))
        losses, g = np.array(losses, dtype=np.float64), copy(g)
        if not self.two_passes() or not finite(g):
            return float(np.mean(losses)), g, {}
        perturbed = plus(w, self.perturbation(w, g, rho))
        self.passes += weight / 3.0
        perturbed_losses, _ = oracle(copy(perturbed), gradient=False)
        rise = np.array(perturbed_losses, dtype=np.float64) - losses
        rise[np.isnan(rise)] = math.inf  # an undefined rise is chosen, so that it shows in h
        n = len(losses)
        chosen = max(1, math.ceil(round(self.gamma * n, 9)))
        examples = np.sort(np.argsort(-rise, kind="stable")[:chosen])
        self.passes += weight * chosen / n
        _, h = oracle(copy(perturbed), examples=examples)
        return float(np.mean(losses)), g, copy(h)

    def _pass(self, oracle: Oracle, w: Weights, weight: float) -> tuple[float, Weights]:
        """One counted oracle call, on copies both ways."""
        self.passes += weight
        loss, gradient = oracle(copy(w))
        return float(loss), copy(gradient)


# ---------------------------------------------------------------------------------------------------------------------
# Weight averages
# ---------------------------------------------------------------------------------------------------------------------


class RunningMean:
    """mean <- mean + (w - mean) / n over the n weights given so far."""

    def __init__(self):
        self.n = 0
        self.average: Weights = {}

    def update(self, w: Weights) -> Weights:
        """Takes w in, returns the mean."""
        self.n += 1
        for name in w:
            mean = self.average[name] if name in self.average else np.zeros_like(w[name])
            self.average[name] = mean + (w[name] - mean) / self.n
        return copy(self.average)


class ExponentialAverage:
    """avg <- decay avg + (1 - decay) w, starting at the first w."""

    def __init__(self, decay: float):
        self.decay = decay
        self.n = 0
        self.average: Weights = {}

    def update(self, w: Weights) -> Weights:
        """Takes w in, returns the average."""
        self.n += 1
        if self.n == 1:
            self.average = copy(w)
        else:
            for name in w:
                self.average[name] = self.decay * self.average[name] + (1.0 - self.decay) * w[name]
        return copy(self.average)


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
