"""Parallelised SAM (SAMPa): two gradients that do not depend on each other.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

import contextlib
import copy
import dis
import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.amp import GradScaler

from sam_bench.optim.gradients import Gradients, Tensors, real
from sam_bench.optim.method import BaseOptimizer, Closure, Params
from sam_bench.optim.norms import Direction, unit
from sam_bench.optim.registry import METHODS
from sam_bench.optim.sharpness_aware import SharpnessAware


class SAMPa(SharpnessAware):
    """SAM with `g = ∇L_B(y)` and `h = ∇L_B₋(w + ρ q / (‖q‖ + 1e-12))`; `v = (1 − λ) h + λ g`, then `q ← g`.

    B is the batch and B₋ the previous one (B itself if there is none). `q` starts at 0. `y` are the weights to which
    the base optimizer would step along `q`: for SGD with its momentum and weight decay; for any other base `w − η q`,
    as in the paper (Xie et al., 2024, arXiv:2410.10683). The authors' code adds momentum and weight decay too, but only
    once there is a momentum buffer, and supports neither Nesterov momentum nor dampening.

    The authors compute the two gradients side by side on two devices; here one follows the other. Both are taken at
    other weights than `w`. So re-estimate running statistics at `w` before the last evaluation (see
    `reestimate_statistics`); `first_step` raises an error; and with ρ = 0 it is not SGD.

    A step calls the closure of the previous step again, which must still compute the loss of its own batch. Use
    `functools.partial(closure, images, labels)`, or a new function in each step. A closure with a variable that was
    reassigned to another tensor is refused; changes inside of objects are not detected.

    The closure is neither in the `state_dict` nor in a pickled optimizer. Give it to `remember` after loading, for an
    exact resume; and after a deep copy, if the closure uses the original's model. After a skipped step, B₋ is the
    batch of that step, which may cause the next step to be skipped too; `q` is unchanged.

    Args:
        lmbda: λ, the share of `g`, the gradient at `y`.

    Raises:
        ValueError: lmbda is out of range.

    Example:
        >>> optimizer = SAMPa(model.parameters(), torch.optim.SGD, rho=0.1, model=model, lr=0.1)
        >>> def closure(x, y):
        ...     optimizer.zero_grad()
        ...     loss = F.cross_entropy(model(x), y)
        ...     loss.backward()
        ...     return loss
        >>> losses = [optimizer.step(functools.partial(closure, x, y)) for _ in range(3)]
    """

    keeps_gradient = True
    perturbs_first = True
    repeats_batch = True

    def __init__(
        self, params: Params, base_optimizer: BaseOptimizer, rho: float = 0.1, *, lmbda: float = 0.2, **options: Any
    ):
        METHODS["sampa"].check(lmbda=lmbda)
        super().__init__(params, base_optimizer, rho, **options)
        self.lmbda = lmbda

        #: The previous step's closure, if there is one; a list, because wrappers of an optimizer share it.
        self._previous: list[_RecordedClosure] = []

    def step(  # type: ignore[override]
        self,
        closure: Closure | Sequence[Closure] | None = None,
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        """Take a step as `SharpnessAware.step` does; the closure is called again in the next step.

        Raises:
            RuntimeError: a variable of the previous step's closure refers to another tensor by now.
        """
        for recorded in self._previous:
            recorded.check()
        closure = cast(Closure, closure)  # the step below refuses anything else
        steps = self.steps
        loss = super().step(closure, weights, scaler)
        if self.steps > steps:  # a closure without gradients takes no step, and the next one must not call it again
            self.remember(closure)
        return loss

    def remember(self, closure: Closure) -> None:
        """Store the closure of the previous step, for example after `load_state_dict`."""
        self._previous[:] = [_RecordedClosure(closure)]

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        return {"q": torch.zeros_like(p)}

    def ahead(self, part: int) -> tuple[Gradients, Callable[[dict[str, Any]], Tensor | float]]:
        d: Gradients = {}
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.requires_grad]
            if not parameters:
                continue

            q: Tensors = self._recall(parameters)["q"]
            if isinstance(self.base_optimizer, torch.optim.SGD):
                q = self._compute_sgd_direction(group, parameters, q)
            d |= dict(zip(parameters, q, strict=True))

        return d, lambda group: -group["lr"]

    def _compute_sgd_direction(self, group: dict[str, Any], parameters: Tensors, q: Tensors) -> Tensors:
        """Return what torch's SGD would multiply by the learning rate if it were given the gradient q."""
        momentum = group["momentum"]
        d = torch._foreach_add(q, [real(p) for p in parameters], alpha=group["weight_decay"])

        # As in torch's SGD, a parameter without a momentum buffer moves along `d` itself.
        buffers = [self.state.get(p, {}).get("momentum_buffer") for p in parameters]
        with_buffer = [i for i, buffer in enumerate(buffers) if buffer is not None]
        averaged = list(d)
        if with_buffer:
            new = torch._foreach_mul([real(buffers[i]) for i in with_buffer], momentum)
            torch._foreach_add_(new, [d[i] for i in with_buffer], alpha=1 - group["dampening"])
            for i, x in zip(with_buffer, new, strict=True):
                averaged[i] = x

        return torch._foreach_add(d, averaged, alpha=momentum) if group["nesterov"] else averaged

    def direction(self, w: Tensors, g: Tensors, q: Tensors) -> Direction:
        return unit(q)

    def second_pass(self, closure: Closure, losses: Tensor) -> float:
        """Take the second pass on the previous batch, or on this one where there is none."""
        previous = self._previous[0].closure if self._previous else None
        (closure if previous is None else previous)()
        return 1.0

    def combine(self, g: Tensors, h: Tensors, q: Tensors) -> Tensors:
        return torch._foreach_add(torch._foreach_mul(h, 1 - self.lmbda), g, alpha=self.lmbda)

    def update_state(self, g: Tensors, h: Tensors, q: Tensors) -> dict[str, Tensors]:
        return {"q": g}

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        super()._apply_state(state_dict)
        self._previous.clear()


class _RecordedClosure:
    """A closure, with the tensors and collections that its variables referred to when it was recorded."""

    def __init__(self, closure: Closure | None):
        self.closure = closure
        self.variables = self._find_variables()

    def _find_variables(self) -> dict[str, Any]:
        """Return the globals and the enclosing functions' variables of the closure that hold tensors or collections."""
        function: Any = self.closure
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)
        if not inspect.isfunction(function):
            return {}

        variables = {name: function.__globals__.get(name) for name in _global_names(function.__code__)}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # raised by a variable that has no value yet
                variables[name] = cell.cell_contents
        return {name: value for name, value in variables.items() if isinstance(value, Tensor | tuple | list | dict)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_RecordedClosure":
        return _RecordedClosure(copy.deepcopy(self.closure, memo))

    def __reduce__(self) -> tuple[Any, ...]:  # a pickled optimizer leaves the closure out
        return _RecordedClosure, (None,)

    def check(self) -> None:
        """Check that the closure's variables still refer to the same tensors and collections.

        Raises:
            RuntimeError: a variable refers to another object by now.
        """
        present = self._find_variables()
        for name, value in self.variables.items():
            if present.get(name) is not value:
                raise RuntimeError(
                    f"SAMPa calls the closure of the previous step again, but its variable {name!r} was reassigned: "
                    "bind what changes from step to step, as in functools.partial(closure, images, labels)"
                )


@functools.cache
def _global_names(code: types.CodeType) -> frozenset[str]:
    """Return the names of the global variables that a function's code reads."""
    return frozenset(step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
