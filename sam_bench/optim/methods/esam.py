"""Efficient SAM: perturb part of the weights, second pass on part of the batch."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_bench.optim.draws import SEED, generator_of_step
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import Closure
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import Direction
from sam_bench.optim.registry import METHODS


class ESAM(SAM):
    """A random share β of the weights is perturbed; the second pass is on the share γ of examples whose loss rose most.

    `e = ρ (mask / β) g / (‖g‖ + 1e-12)`, each element of the mask 1 with probability β; `v` is the gradient at `w + e`
    of the mean loss over the chosen examples (Du et al., 2022, arXiv:2110.03141). Masks depend on seed and step alone.

    That is the paper's rule. The authors' code masks whole tensors rather than elements and divides by the norm of what
    is left and by β, so that `‖e‖ = ρ / β`; it keeps the examples above a threshold, one fewer than `int(γ n)`; and its
    running statistics change in all three forward passes.

    The closure returns one loss for each example, takes the examples as an optional index, and leaves gradients
    alone where they are disabled, since the losses at `w + e` are first only compared:

        >>> optimizer = ESAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> def closure(examples=slice(None)):
        ...     losses = F.cross_entropy(model(x[examples]), y[examples], reduction="none")
        ...     if losses.requires_grad:
        ...         optimizer.zero_grad()
        ...         losses.mean().backward()
        ...     return losses
        >>> loss = optimizer.step(closure)

    In a hand-written loop, `choose` says which examples the second pass is on.

    Args:
        beta: β.
        gamma: γ.
        adaptive: perturb as ASAM does, rather than as SAM.
        seed: of the masks, from 0 to 2³² − 1; the same in all processes of a run.

    Raises:
        ValueError: beta, gamma or seed is out of range.
    """

    selects_examples = True
    whole_tensors = True

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.05,
        *,
        beta: float = 0.6,
        gamma: float = 0.5,
        adaptive: bool = False,
        model: nn.Module | None = None,
        seed: int = 0,
        **options: Any,
    ):
        METHODS["esam"].check(beta=beta, gamma=gamma)
        SEED.check(seed)
        super().__init__(params, base_optimizer, rho, adaptive=adaptive, model=model, **options)
        self.beta = beta
        self.gamma = gamma
        self.seed = seed

    def direction(self, w: Tensors, g: Tensors) -> Direction:
        d, factor = super().direction(w, g)
        generator = generator_of_step(self.seed, self.steps, d[0].device)
        masks = [torch.rand(x.shape, generator=generator, device=x.device) < self.beta for x in d]
        return Direction([x * mask for x, mask in zip(d, masks, strict=True)], factor / self.beta)

    def choose(self, before: Tensor, after: Tensor) -> Tensor:
        """The indices of the `⌈γ n⌉` examples whose loss rose most, ascending; losses have shape (n,)."""
        count = max(1, math.ceil(round(self.gamma * len(before), 9)))
        return torch.argsort(after - before, descending=True, stable=True)[:count].sort().values

    def second_pass(self, closure: Closure, losses: Tensor) -> float:
        """A forward pass of all examples, a third of a forward-backward pass, and a whole one of the chosen."""
        if losses.dim() != 1:
            raise ValueError("ESAM's closure returns one loss for each example, a tensor of shape (n,)")
        with torch.no_grad():
            after = closure()
        chosen = self.choose(losses, after)
        closure(chosen)
        return 1 / 3 + len(chosen) / len(losses)
