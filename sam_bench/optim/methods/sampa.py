"""SAM parallelised: two gradients that do not depend on each other."""

import contextlib
import copy
import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.gradients import Gradients, Tensors, real
from sam_bench.optim.method import Closure
from sam_bench.optim.norms import Direction, unit
from sam_bench.optim.registry import METHODS


class SAMPa(SharpnessAware):
    """`h = ∇L_B₋(w + ρ q / (‖q‖ + 1e-12))` on the batch B₋ before, `g = ∇L_B(y)`; `v = (1 − λ) h + λ g`, then `q ← g`.

    `y` is where the base optimizer's step would lead with the direction `q`: for SGD the weights after that step,
    with its momentum and weight decay; for any other base `w − η q`, as in the paper (Xie et al., 2024,
    arXiv:2410.10683). In the method's first step `q` is 0; without a step before B₋ is B. The authors' code, too,
    adds momentum and weight decay, but not before there is a momentum, and knows neither Nesterov's nor dampening.

    Neither gradient needs the other, so the authors compute them side by side on two devices; here they follow each
    other. Both are taken at other weights than `w`, so running statistics are to be re-estimated at `w` before the last
    evaluation (see `reestimate_statistics`), there is no stepping by hand, and with ρ = 0 it is not SGD.

    A step calls the closure of the step before again, which must still compute the loss of its own batch:
    `functools.partial(closure, images, labels)`, or a function with variables of its own, does. One whose tensors,
    by name, are others by then is refused; what lies deeper, as in the attributes of an object, is not seen. The
    closure is no part of the `state_dict`, nor of a pickled optimizer: after loading one, tell of it with
    `remember`, for a resume that is exact; and for a copy, where the closure is of the original's model. After a
    step that was skipped, B₋ is that step's batch, which may skip the next one too, and `q` the gradient before it.

    Args:
        lmbda: λ, the share of the gradient at `y`.

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
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.1,
        *,
        lmbda: float = 0.2,
        model: nn.Module | None = None,
        **options: Any,
    ):
        METHODS["sampa"].check(lmbda=lmbda)
        super().__init__(params, base_optimizer, rho, model=model, **options)
        self.lmbda = lmbda
        self._last: list[_Called] = []  # of the step before, if there was one: a list, which wrappers share

    def step(  # type: ignore[override]
        self,
        closure: Closure | Sequence[Closure] | None = None,
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        """As `SharpnessAware.step`; the closure is called again in the next step.

        Raises:
            RuntimeError: a tensor to which the closure of the step before refers by name is another one by now.
        """
        for called in self._last:
            called.check()
        closure = cast(Closure, closure)  # others are refused
        loss = super().step(closure, weights, scaler)
        self.remember(closure)
        return loss

    def remember(self, closure: Closure) -> None:
        """Take this as the closure of the step before; after `load_state_dict`, say."""
        self._last[:] = [_Called(closure)]

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
                q = self._step_of_sgd(group, parameters, q)
            d |= dict(zip(parameters, q, strict=True))
        return d, lambda group: -group["lr"]

    def _step_of_sgd(self, group: dict[str, Any], parameters: Tensors, q: Tensors) -> Tensors:
        """What torch's SGD would multiply by the learning rate, if it were given q."""
        momentum = group["momentum"]
        d = torch._foreach_add(q, [real(p) for p in parameters], alpha=group["weight_decay"])
        buffers = [self.state.get(p, {}).get("momentum_buffer") for p in parameters]
        moving = [i for i, buffer in enumerate(buffers) if buffer is not None]
        kept = list(d)
        if moving:
            new = torch._foreach_mul([real(buffers[i]) for i in moving], momentum)
            torch._foreach_add_(new, [d[i] for i in moving], alpha=1 - group["dampening"])
            for i, x in zip(moving, new, strict=True):
                kept[i] = x
        return torch._foreach_add(d, kept, alpha=momentum) if group["nesterov"] else kept

    def direction(self, w: Tensors, g: Tensors, q: Tensors) -> Direction:
        return unit(q)

    def second_pass(self, closure: Closure, losses: Tensor) -> float:
        """On the batch of the step before."""
        repeated = self._last[0].closure if self._last else None
        (closure if repeated is None else repeated)()
        return 1.0

    def combine(self, g: Tensors, h: Tensors, q: Tensors) -> Tensors:
        return torch._foreach_add(torch._foreach_mul(h, 1 - self.lmbda), g, alpha=self.lmbda)

    def update_state(self, g: Tensors, h: Tensors, q: Tensors) -> dict[str, Tensors]:
        return {"q": g}

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        super()._apply_state(state_dict)
        self._last.clear()


class _Called:
    """A closure, and the tensors, or collections, that it referred to by name when it was called."""

    def __init__(self, closure: Closure | None):
        self.closure = closure
        self.names = self._names()

    def _names(self) -> dict[str, Any]:
        function: Any = self.closure
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)
        if not inspect.isfunction(function):
            return {}
        found = {name: function.__globals__.get(name) for name in _global_names(function.__code__)}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # of a cell that is empty yet
                found[name] = cell.cell_contents
        return {name: value for name, value in found.items() if isinstance(value, Tensor | tuple | list | dict)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Called":
        return _Called(copy.deepcopy(self.closure, memo))

    def __reduce__(self) -> tuple[Any, ...]:  # a closure is no part of a pickled optimizer
        return _Called, (None,)

    def check(self) -> None:
        """Find out whether it would still do the same, as far as that can be seen.

        Raises:
            RuntimeError: a name means another object by now.
        """
        now = self._names()
        for name, value in self.names.items():
            if now.get(name) is not value:
                raise RuntimeError(
                    f"SAMPa calls the closure of the step before again, and its {name!r} is another object by now: "
                    "bind what changes from step to step, functools.partial(closure, images, labels)"
                )


@functools.cache
def _global_names(code: types.CodeType) -> frozenset[str]:
    return frozenset(each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL")
