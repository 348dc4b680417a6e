"""Momentum-SAM: the perturbation follows the momentum, so one pass is enough.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sam_bench.optim.gradients import Gradients, real
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.norms import unit
from sam_bench.optim.sharpness_aware import SharpnessAware

#: Names under which torch's optimizers keep their momentum.
_MOMENTUM_KEYS = ("momentum_buffer", "exp_avg")


class MSAM(SharpnessAware):
    """SAM along the momentum: `v` is the gradient at `w − ρ m / ‖m‖`, where m is the base optimizer's momentum buffer.

    Becker et al. (2024), arXiv:2401.12033. Between steps the weights are `w`, which are evaluated and saved. A step's
    loss and running statistics are those of the perturbed weights. So re-estimate the statistics at `w` before the last
    evaluation, as the authors and the benchmark do (see `reestimate_statistics`). In a hand-written loop, call
    `first_step` before computing the gradients and `second_step` after it.

    The base optimizer decays the weights `w`, as under every other method here. The authors' optimizer decays the
    perturbed weights, a difference of `λ ρ m / ‖m‖`. With the usual λ of 5e-4 it is far smaller than the gradient.

    Raises:
        ValueError: the base optimizer has no momentum.
        RuntimeError: in a step, the base optimizer's state has no momentum under a known name.

    Example:
        >>> optimizer = MSAM(model.parameters(), torch.optim.SGD, rho=0.3, model=model, lr=0.1, momentum=0.9)
        >>> loss = optimizer.step(closure)
        >>> optimizer.passes
        1.0
    """

    perturbs_first = True
    two_passes = False

    def __init__(self, params: Params, base_optimizer: BaseOptimizer, rho: float = 3.0, **options: Any):
        super().__init__(params, base_optimizer, rho, **options)
        if not all(group.get("momentum") or "betas" in group for group in self.param_groups):
            raise ValueError("MSAM perturbs along the base optimizer's momentum, and it has none: give it momentum=0.9")

    def ahead(self, part: int) -> tuple[Gradients, Callable[[dict[str, Any]], Tensor | float]]:
        # A frozen parameter keeps its last momentum, along which it must not be perturbed.
        trained = {p: state for p, state in self.state.items() if p.requires_grad}
        buffers = {p: state[key] for p, state in trained.items() for key in _MOMENTUM_KEYS if key in state}
        if not buffers:
            if trained:
                raise RuntimeError(
                    f"{type(self.base_optimizer).__name__} keeps no momentum under {' or '.join(_MOMENTUM_KEYS)}: "
                    "use another base optimizer"
                )
            return {}, self.radius  # before the first step there is no momentum, hence no perturbation

        m = {p: real(buffer) for p, buffer in buffers.items()}
        _, inverse_norm = unit(list(m.values()))
        return m, lambda group: -inverse_norm * self.radius(group)
