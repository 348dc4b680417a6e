"""The base optimizer alone: one pass and no perturbation."""

from typing import Any

from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.sharpness_aware import SharpnessAware


class SGD(SharpnessAware):
    """The base optimizer's own step, taken as all methods take theirs: the baseline of every comparison."""

    two_passes = False

    def __init__(self, params: Params, base_optimizer: BaseOptimizer, **options: Any):
        super().__init__(params, base_optimizer, 0.0, **options)
