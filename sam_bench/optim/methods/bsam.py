"""Bayesian SAM: the expected loss around the weights, with a learnt scale for each weight.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.draws import SEED, generator_of_part
from sam_bench.optim.gradients import Gradients, Tensors, real
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.registry import METHODS
from sam_bench.optim.sharpness_aware import SharpnessAware


class BSAM(SharpnessAware):
    """Bayesian SAM: `g = ∇L(w + n / √(N s))` with standard normal noise n; `e = ρ g / s`; `v = m / s` with the new m.

    `m ← β₁ m + (1 − β₁)(h + δ w)` and `s ← β₂ s + (1 − β₂)(√s |g| + γ + δ)`, where m starts at 0 and s at 1
    (Möllenhoff & Khan, 2023, arXiv:2210.01620, algorithm 1). `1 / (N s)` is the variance of a Gaussian posterior over
    the weights, and `N δ` the precision of its prior. If a batch is given in parts, each part has its own noise, and
    `|g|`, not `g`, is averaged over the parts; the authors use 8.

    The rule has its own momentum and weight decay: use SGD without either as the base optimizer. With ρ = 0 it is not
    SGD. Both gradients are taken at perturbed weights. So re-estimate running statistics at `w` before the last
    evaluation (see `reestimate_statistics`); `first_step` raises an error. The noise depends only on seed, step and
    part.

    Args:
        examples: N, the number of training examples; the authors use 4 times that number, for their augmentation.
        delta: δ, the weight decay.
        gamma: γ, the damping of s.
        beta_1: β₁, the decay of m.
        beta_2: β₂, the decay of s.
        seed: the seed of the noise, from 0 to 2³² − 1.

    Raises:
        TypeError: examples=None, which means the number of training images in a preset only.
        ValueError: examples, delta, gamma, beta_1, beta_2 or seed is out of range.

    Example:
        >>> optimizer = BSAM(model.parameters(), torch.optim.SGD, rho=0.01, examples=len(x), model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    keeps_gradient = True
    needs_weights = True
    perturbs_first = True
    whole_tensors = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.01,
        *,
        examples: int = 200_000,
        delta: float = 2e-4,
        gamma: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        seed: int = 0,
        **options: Any,
    ):
        if examples is None:
            raise TypeError("examples=None must be an integer: give the number of training examples")
        METHODS["bsam"].check(examples=examples, delta=delta, gamma=gamma, beta_1=beta_1, beta_2=beta_2)
        SEED.check(seed)
        super().__init__(params, base_optimizer, rho, **options)
        self.examples = examples
        self.delta = delta
        self.gamma = gamma
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.seed = seed

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        return {"m": torch.zeros_like(p), "s": torch.ones_like(p)}

    def ahead(self, part: int) -> tuple[Gradients, Callable[[dict[str, Any]], float]]:
        parameters = [p for p in self._parameters() if p.requires_grad]
        w = [real(p) for p in parameters]

        # Drawn in float32 and then cast, so that the noise is the same in every precision.
        generator = generator_of_part(self.seed, self.steps, part, w[0].device)
        count = sum(x.numel() for x in w)
        flat_noise = torch.randn(count, generator=generator, dtype=torch.float32, device=w[0].device)
        chunks = torch.split(flat_noise, [x.numel() for x in w])
        noise = [n.view(x.shape).to(x.dtype) for n, x in zip(chunks, w, strict=True)]

        divisors = torch._foreach_mul(torch._foreach_sqrt(self._recall(parameters)["s"]), math.sqrt(self.examples))
        return dict(zip(parameters, torch._foreach_div(noise, divisors), strict=True)), lambda group: 1.0

    def direction(self, w: Tensors, g: Tensors, m: Tensors, s: Tensors) -> Tensors:
        return torch._foreach_div(g, s)

    def of_part(self, g: Tensors) -> Tensors:
        return torch._foreach_abs(g)

    def combine(self, g: Tensors, h: Tensors, s: Tensors, **memory: Tensors) -> Tensors:
        return torch._foreach_div(self._compute_momentum(h, **memory), s)

    def update_state(self, g: Tensors, h: Tensors, s: Tensors, **memory: Tensors) -> dict[str, Tensors]:
        # `g` holds absolute values here: see `of_part`.
        curvature = torch._foreach_mul(torch._foreach_sqrt(s), g)
        torch._foreach_add_(curvature, self.gamma + self.delta)
        torch._foreach_mul_(curvature, 1 - self.beta_2)
        return {"m": self._compute_momentum(h, **memory), "s": torch._foreach_add(curvature, s, alpha=self.beta_2)}

    def _compute_momentum(self, h: Tensors, m: Tensors, weights: Tensors) -> Tensors:
        """Return the new m, in new tensors."""
        gradient = torch._foreach_add(h, weights, alpha=self.delta)
        torch._foreach_mul_(gradient, 1 - self.beta_1)
        return torch._foreach_add(gradient, m, alpha=self.beta_1)
