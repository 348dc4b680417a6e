"""Efficient SAM: a perturbation of part of the weights, and a second pass on part of the batch.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

import math
from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.draws import SEED, generator_of_step
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Closure, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import Direction
from sam_bench.optim.registry import METHODS


class ESAM(SAM):
    """SAM that perturbs a random share β of the weights, and takes its second pass on a share γ of the examples.

    `e = ρ (mask / β) g / (‖g‖ + 1e-12)`, where each element of the mask is 1 with probability β, else 0. `v` is the
    gradient at `w + e` of the mean loss over the `⌈γ n⌉` examples whose loss rose most from `w` to `w + e` (Du et al.,
    2022, arXiv:2110.03141). Masks depend only on seed and step.

    This is the paper's rule. The authors' code masks whole tensors rather than elements, and divides by β and by the
    norm of the gradients that are left, so that `‖e‖ = ρ / β`. It keeps the examples above a threshold, one fewer than
    `int(γ n)`. Its running statistics change in all three forward passes.

    The closure takes an optional index of examples and returns one loss for each of them. It computes no gradients
    where they are disabled, as in the forward pass that only compares the losses at `w + e`:

        >>> optimizer = ESAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> def closure(examples=slice(None)):
        ...     losses = F.cross_entropy(model(x[examples]), y[examples], reduction="none")
        ...     if losses.requires_grad:
        ...         optimizer.zero_grad()
        ...         losses.mean().backward()
        ...     return losses
        >>> loss = optimizer.step(closure)

    In a hand-written loop, `choose` returns the examples for the second pass.

    Args:
        beta: β, the share of the weights that is perturbed.
        gamma: γ, the share of the examples in the second pass.
        adaptive: use ASAM's perturbation instead of SAM's.
        seed: the seed of the masks, from 0 to 2³² − 1; the same in all processes of a run.

    Raises:
        ValueError: beta, gamma or seed is out of range.
    """

    selects_examples = True
    whole_tensors = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        beta: float = 0.6,
        gamma: float = 0.5,
        seed: int = 0,
        **options: Any,
    ):
        METHODS["esam"].check(beta=beta, gamma=gamma)
        SEED.check(seed)
        super().__init__(params, base_optimizer, rho, **options)
        self.beta = beta
        self.gamma = gamma
        self.seed = seed

    def direction(self, w: Tensors, g: Tensors) -> Direction:
        d, factor = super().direction(w, g)
        generator = generator_of_step(self.seed, self.steps, d[0].device)
        masks = [torch.rand(x.shape, generator=generator, device=x.device) < self.beta for x in d]
        return Direction([x * mask for x, mask in zip(d, masks, strict=True)], factor / self.beta)

    def choose(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the indices of the `⌈γ n⌉` examples whose loss rose most, in ascending order.

        Args:
            before: the examples' losses at `w`, of shape (n,).
            after: their losses at `w + e`, of shape (n,).
        """
        # Rounded first: 0.55 * 100 is a little above 55 in floating point, so its ceiling would be 56.
        count = max(1, math.ceil(round(self.gamma * len(before), 9)))
        return torch.argsort(after - before, descending=True, stable=True)[:count].sort().values

    def second_pass(self, closure: Closure, losses: Tensor) -> float:
        """Take a forward pass on all examples, and a forward-backward pass on the chosen ones.

        Returns:
            The cost in forward-backward passes; the forward pass counts as a third of one.
        """
        if losses.dim() != 1:
            raise ValueError(
                f"ESAM's closure returned a tensor of shape {tuple(losses.shape)}: "
                "it must return one loss for each example, of shape (n,)"
            )

        with torch.no_grad():
            after = closure()
        torch.clear_autocast_cache()  # torch 2.10 would use weights that were cast without gradients for the next pass
        chosen = self.choose(losses, after)
        closure(chosen)
        return 1 / 3 + len(chosen) / len(losses)
