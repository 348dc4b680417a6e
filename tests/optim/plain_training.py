"""Training in plain numpy: the base optimizers SGD and AdamW, and steps of a reference on top of one."""

import copy

import numpy as np

from sam_bench.testing import Weights
from tests.optim.reference import Gradient, Memory, Radius, clipped, sgd

#: One number for all parameters, or one by parameter name, as parameter groups have.
Setting = float | dict[str, float]


def by_name(value: Setting, w: Weights) -> dict[str, float]:
    """Return the setting's value for each parameter."""
    return value if isinstance(value, dict) else dict.fromkeys(w, value)


class SGD:
    """SGD as torch.optim documents it, with dampening 0; weight decay is added to the gradient."""

    def __init__(self, lr: Setting, momentum: float, weight_decay: Setting, nesterov: bool = False):
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov

        #: The momentum buffer, empty before the first step.
        self.m: Weights = {}

    def update(self, w: Weights, v: Weights) -> Weights:
        """Return w − η m, or w − η (d + μ m) with Nesterov momentum; d = v + λ w, then m ← μ m + d, first d."""
        lr, weight_decay = by_name(self.lr, w), by_name(self.weight_decay, w)
        d = {n: v[n] + weight_decay[n] * w[n] for n in w}
        self.m = {n: self.momentum * self.m[n] + d[n] for n in w} if self.m else d
        update = {n: d[n] + self.momentum * self.m[n] for n in w} if self.nesterov else self.m
        return {n: w[n] - lr[n] * update[n] for n in w}

    def ahead(self, w: Weights, v: Weights) -> Weights:
        """Return the weights that `update` would return, without a step."""
        return copy.deepcopy(self).update(w, v)


class AdamW:
    """AdamW as torch.optim documents it, without amsgrad."""

    def __init__(self, lr: Setting, betas: tuple[float, float], eps: float, weight_decay: Setting):
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

        #: The first and second moment, empty before the first step, and the number of steps.
        self.m: Weights = {}
        self.s: Weights = {}
        self.steps = 0

    def update(self, w: Weights, v: Weights) -> Weights:
        """Return w − η λ w − η m̂ / (√ŝ + ε); m ← β₁ m + (1 − β₁) v, s ← β₂ s + (1 − β₂) v², and ^ corrects the bias."""
        lr, weight_decay = by_name(self.lr, w), by_name(self.weight_decay, w)
        beta_1, beta_2 = self.betas
        self.steps += 1
        self.m = {n: beta_1 * self.m.get(n, 0.0) + (1 - beta_1) * v[n] for n in w}
        self.s = {n: beta_2 * self.s.get(n, 0.0) + (1 - beta_2) * v[n] ** 2 for n in w}
        m_hat = {n: self.m[n] / (1 - beta_1**self.steps) for n in w}
        s_hat = {n: self.s[n] / (1 - beta_2**self.steps) for n in w}
        decayed = {n: w[n] - lr[n] * weight_decay[n] * w[n] for n in w}
        return {n: decayed[n] - lr[n] * m_hat[n] / (np.sqrt(s_hat[n]) + self.eps) for n in w}

    def ahead(self, w: Weights, v: Weights) -> Weights:
        """Return w − η v, SAMPa's look ahead on any base but SGD."""
        lr = by_name(self.lr, w)
        return {n: w[n] - lr[n] * v[n] for n in w}


class PlainTraining:
    """Steps of a reference on a base optimizer.

    Args:
        reference: one of `tests.optim.reference`, with its options bound.
        start: the first step of the method; earlier steps are the base optimizer's alone (Tail-SAM).
        clip_norm: the greatest norm of v.
    """

    def __init__(
        self,
        reference,
        base: SGD | AdamW,
        w: Weights,
        rho: Radius,
        *,
        start: int = 0,
        clip_norm: float | None = None,
    ):
        self.reference = reference
        self.base = base
        self.w = w
        self.rho = rho
        self.start = start
        self.clip_norm = clip_norm
        self.memory: Memory = {}
        self.steps = 0

    def step(self, gradient: Gradient) -> None:
        """Take a step on a batch; change `w`."""
        if self.steps >= self.start:
            v = self.reference(gradient, self.w, self.rho, self.memory)
        else:
            v = sgd(gradient, self.w, self.rho, self.memory)
            self.memory["previous"] = gradient  # SAMPa repeats the batch of any step
        self.steps += 1

        w = self.base.update(self.w, clipped(v, self.clip_norm))
        lr = by_name(self.base.lr, w)
        correction = self.memory.pop("correction", dict.fromkeys(w, 0.0))  # of decoupled WSAM only
        self.w = {n: w[n] - lr[n] * correction[n] for n in w}
