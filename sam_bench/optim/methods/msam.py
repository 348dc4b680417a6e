"""Momentum-SAM: the perturbation follows the momentum, so one pass is enough."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.gradients import Gradients, real
from sam_bench.optim.norms import unit

_MOMENTUM = ("momentum_buffer", "exp_avg")


class MSAM(SharpnessAware):
    """The gradient is taken at `w − ρ m / ‖m‖`, `m` the base optimizer's momentum buffer; `v` is that gradient.

    Becker et al. (2024), arXiv:2401.12033. Between steps the weights are `w`: that is what is evaluated and saved. The
    loss of a step, and the running statistics of its only pass, are of the perturbed weights: before the last
    evaluation re-estimate them at `w`, as the authors and the benchmark do (see `reestimate_statistics`). In a
    hand-written loop `first_step` comes before the gradients and `second_step` after them.

    The base optimizer decays the weights `w`, as it does under every other method here. The authors' optimizer decays
    the perturbed weights, and so adds `λ ρ m / ‖m‖` less; with the usual λ of 5e-4 that is far below the gradient.

    Raises:
        ValueError: the base optimizer has no momentum.
        RuntimeError: in a step, it keeps its momentum under a name that is not known here.

    Example:
        >>> optimizer = MSAM(model.parameters(), torch.optim.SGD, rho=0.3, model=model, lr=0.1, momentum=0.9)
        >>> loss = optimizer.step(closure)
        >>> optimizer.passes
        1.0
    """

    perturbs_first = True
    two_passes = False

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 3.0,
        *,
        model: nn.Module | None = None,
        **options: Any,
    ):
        super().__init__(params, base_optimizer, rho, model=model, **options)
        if not all(group.get("momentum") or "betas" in group for group in self.param_groups):
            raise ValueError("MSAM perturbs along the momentum, and this base optimizer has none: give it momentum=0.9")

    def ahead(self, part: int) -> tuple[Gradients, Callable[[dict[str, Any]], Tensor | float]]:
        found = {p: state[name] for p, state in self.state.items() for name in _MOMENTUM if name in state}
        if not found:
            if self.state:
                raise RuntimeError(
                    f"{type(self.base_optimizer).__name__} keeps no momentum under {' or '.join(_MOMENTUM)}"
                )
            return {}, self.radius
        m = {p: real(buffer) for p, buffer in found.items()}
        _, inverse_norm = unit(list(m.values()))
        return m, lambda group: -inverse_norm * self.radius(group)
