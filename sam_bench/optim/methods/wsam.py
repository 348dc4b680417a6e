"""Sharpness as a weighted regulariser: mixtures of the gradients at `w` and `w + e`.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch

from sam_bench.optim.base import has_one_rate
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import scale_to_norm
from sam_bench.optim.registry import METHODS


class WSAM(SAM):
    """SAM with sharpness `h − g` as a regulariser of weight `a = γ / (1 − γ)` (Yue et al., 2023, arXiv:2305.15817).

    With `decouple=False`, `v = (1 − a) g + a h`. With `decouple=True`, `v = g`, and the base optimizer's step is
    followed by `w ← w − η a (h − g)`, without momentum or weight decay.

    Args:
        gamma: γ; with `decouple=False`, 0 is the base optimizer and 0.5 is SAM.
        decouple: take the sharpness term as a separate step after the base optimizer's.
        adaptive: use ASAM's perturbation instead of SAM's.
        max_norm: the greatest norm of `g` and of `h`; each is clipped separately before they are combined.

    Raises:
        ValueError: gamma or max_norm is out of range; or decouple=True and the base has no single learning rate.

    Example:
        >>> optimizer = WSAM(model.parameters(), torch.optim.SGD, rho=0.05, gamma=0.9, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        gamma: float = 0.9,
        decouple: bool = True,
        max_norm: float | None = None,
        **options: Any,
    ):
        METHODS["wsam"].check(gamma=gamma, decouple=decouple, max_norm=max_norm)
        super().__init__(params, base_optimizer, rho, **options)
        if decouple and not has_one_rate(self.base_optimizer):
            raise ValueError(
                "decouple=True needs a base optimizer with one learning rate for all tensors, and "
                f"{type(self.base_optimizer).__name__} has none: give decouple=False"
            )
        self.a = gamma / (1 - gamma)
        self.decouple = decouple
        self.max_norm = max_norm

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        g = self._clip(g)
        h = self._clip(h)
        return g if self.decouple else mixed(g, h, self.a)

    def correction(self, g: Tensors, h: Tensors) -> Tensors | None:
        if not self.decouple:
            return None
        return torch._foreach_mul(torch._foreach_sub(self._clip(g), self._clip(h)), self.a)

    def _clip(self, x: Tensors) -> Tensors:
        return x if self.max_norm is None else scale_to_norm(x, self.max_norm)


class GNP(SAM):
    """Gradient norm penalty: `v = (1 − b) g + b h` (Zhao et al., 2022, arXiv:2202.03599).

    Args:
        b: the share of `h`; 0 is the base optimizer and 1 is SAM.
        adaptive: use ASAM's perturbation instead of SAM's.

    Raises:
        ValueError: b is out of range.

    Example:
        >>> optimizer = GNP(model.parameters(), torch.optim.SGD, rho=0.05, b=0.8, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True

    def __init__(
        self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.1, *, b: float = 0.8, **options: Any
    ):
        METHODS["gnp"].check(b=b)
        super().__init__(params, base_optimizer, rho, **options)
        self.b = b

    def combine(self, g: Tensors, h: Tensors) -> Tensors:
        return mixed(g, h, self.b)


def mixed(g: Tensors, h: Tensors, a: float) -> Tensors:
    """Return `(1 − a) g + a h`, computed as `g + a (h − g)`, in new tensors."""
    return torch._foreach_add(g, torch._foreach_sub(h, g), alpha=a)
