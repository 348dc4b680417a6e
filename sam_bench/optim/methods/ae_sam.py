"""SAM in steps with a long gradient only.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.methods.sam import SAM
from sam_bench.optim.norms import global_norm
from sam_bench.optim.options import Option
from sam_bench.optim.registry import METHODS

_TOTAL_STEPS = Option("total_steps", int, "steps of the whole run", ge=1)


class AESAM(SAM):
    """SAM in steps where `‖g‖² ≥ μ + c_t σ`; the base optimizer's own step, of one pass, in the others.

    Before the comparison `μ ← δ μ + (1 − δ) ‖g‖²`, then `σ² ← δ σ² + (1 − δ) (‖g‖² − μ)²`; both start at 0. The
    threshold changes with step t of T: `c_t = (t / T) λ₁ + (1 − t / T) λ₂`, and `c_t = λ₁` after step T. With the usual
    values more and more of the steps are SAM's (Jiang et al., 2023, arXiv:2304.14647).

    Each step waits for the device once, because the host has to know whether to launch a second pass. So a step cannot
    be captured in a CUDA graph. Several processes decide together, by the mean of their `‖g‖²`.

    Args:
        total_steps: T, the number of steps of the whole run.
        delta: δ, the decay of both averages.
        lambda_1, lambda_2: λ₁ and λ₂, the thresholds at the end and at the beginning of the run, in units of σ.
        adaptive: use ASAM's perturbation instead of SAM's.

    Raises:
        ValueError: total_steps, delta or a threshold is out of range; or `step` is given several closures.

    Example:
        >>> optimizer = AESAM(model.parameters(), torch.optim.SGD, rho=0.05, total_steps=1000, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    gradient_decides = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        total_steps: int,
        delta: float = 0.9,
        lambda_1: float = -1.0,
        lambda_2: float = 1.0,
        **options: Any,
    ):
        METHODS["ae_sam"].check(delta=delta, lambda_1=lambda_1, lambda_2=lambda_2)
        _TOTAL_STEPS.check(total_steps)
        super().__init__(params, base_optimizer, rho, **options)
        self.total_steps = total_steps
        self.delta = delta
        self.lambda_1 = lambda_1
        self.lambda_2 = lambda_2

        #: μ and σ².
        self.averages = torch.zeros(2, dtype=torch.float64, device=self._parameters()[0].device)
        #: The averages after the present step, unless it is skipped.
        self._next_averages = self.averages.clone()

    def wants_second_pass(self, g: Tensors) -> Tensor:
        squared_norm = self.over_processes(global_norm(g).double().square())

        mu, variance = self.averages.to(squared_norm.device)
        mu = torch.lerp(squared_norm, mu, self.delta)
        variance = torch.lerp((squared_norm - mu).square(), variance, self.delta)
        self._next_averages.copy_(torch.stack([mu, variance]))  # in place: wrappers of an optimizer share it

        elapsed = min(self.steps / self.total_steps, 1.0)
        threshold: Tensor = mu + (elapsed * self.lambda_1 + (1 - elapsed) * self.lambda_2) * variance.sqrt()
        return squared_norm >= threshold

    def keep_decision(self, finite: Tensor) -> None:
        decided, before = (averages.to(finite.device) for averages in (self._next_averages, self.averages))
        self.averages.copy_(torch.where(finite, decided, before))

    def _collect_state(self) -> dict[str, Any]:
        return super()._collect_state() | {"averages": self.averages.clone()}

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        super()._apply_state(state_dict)
        self.averages.copy_(state_dict["averages"])
