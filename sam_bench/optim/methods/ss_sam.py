"""SAM in randomly chosen steps only (SS-SAM)."""

from typing import Any

from sam_bench.optim.draws import SEED, uniform_of_step
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.registry import METHODS


class SSSAM(SAM):
    """SAM in each step with probability `p`, else the base optimizer's own step, of one pass.

    This is stochastic scheduled SAM, also called randomized sharpness-aware training (Zhao et al., 2022,
    arXiv:2203.09962), with a constant probability; the paper has schedules of it too. Draws depend only on seed and
    step.

    Args:
        p: the probability of a second pass; 1 is SAM, 0 is the base optimizer.
        adaptive: use ASAM's perturbation instead of SAM's.
        seed: the seed of the draws, from 0 to 2³² − 1; the same in all processes of a run.

    Raises:
        ValueError: p or seed is out of range.

    Example:
        >>> optimizer = SSSAM(model.parameters(), torch.optim.SGD, rho=0.05, p=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        p: float = 0.5,
        seed: int = 0,
        **options: Any,
    ):
        METHODS["ss_sam"].check(p=p)
        SEED.check(seed)
        super().__init__(params, base_optimizer, rho, **options)
        self.p = p
        self.seed = seed

    def has_second_pass(self, t: int) -> bool:
        return uniform_of_step(self.seed, t) < self.p
