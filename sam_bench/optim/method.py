"""What a sharpness-aware method is: its perturbation, what it makes of both gradients, what it remembers."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.gradients import Gradients, Tensors
from sam_bench.optim.norms import Direction

Closure = Callable[..., Tensor]


class Method(Optimizer):
    """The hooks that the engine calls, and what they do unless a method says otherwise.

    `w` are the parameters, `g = ∇L(w)` (at other weights, where a method `perturbs_first`) and `h = ∇L(w + e)`:
    lists of real tensors in one order. A hook allocates what it returns, changes none of its arguments, and waits
    for no value on the device. `memory` is what the method remembers of these parameters, by the names that
    `init_state` gives.
    """

    keeps_gradient = False
    """Whether `combine`, `correction` or `update_state` needs `g`; if not, its memory is free in the second pass."""

    selects_examples = False
    """Whether the closure returns one loss for each example and takes an index of examples: see `ESAM`."""

    perturbs_first = False
    """Whether the first gradient, too, is taken at perturbed weights: see `ahead`."""

    two_passes = True
    """Whether any step has a second pass."""

    gradient_decides = False
    """Whether the first pass's gradient decides if a step has a second pass: see `wants_second_pass`."""

    needs_weights = False
    """Whether `combine`, `combine_single` and `update_state` are given the weights `w`, as `weights`: to decay them."""

    needs_names = False
    """Whether `direction` is given the parameters' names, as `names`: a list of strings."""

    repeats_batch = False
    """Whether a step calls the closure of the step before again: see `remember`."""

    whole_tensors = False
    """Whether an element's perturbation depends on others of its tensor, or on its place: shards are then refused."""

    perturbed: set[Tensor] | None
    """The parameters that are perturbed; None for all."""

    def has_second_pass(self, t: int) -> bool:
        """Whether step `t` has a second pass, or may have one; it counts from the first that is the method's own."""
        return self.two_passes

    def wants_second_pass(self, g: Tensors) -> Tensor:
        """Whether this step has its second pass, where the `gradient_decides`: a boolean scalar.

        It must be the same in all processes (see `SharpnessAware.over_processes`). The engine waits for it.
        """
        raise NotImplementedError

    def keep_decision(self, finite: Tensor) -> None:
        """Remember at the end of a step what it decided by, if `finite` (a boolean scalar) holds."""
        raise NotImplementedError

    def ahead(self, part: int) -> tuple[Gradients, Callable[[dict[str, Any]], Tensor | float]]:
        """The perturbation before the first gradient, where a method `perturbs_first`.

        Args:
            part: the number, from 0, of the part of the batch that it is for: one each has a perturbation of its own,
                of all processes together.

        Returns:
            Tensors by parameter, and what those of a parameter group are multiplied by.
        """
        raise NotImplementedError

    def of_part(self, g: Tensors) -> Tensors:
        """What is averaged over the parts of a batch, and over processes, to be the `g` of `combine`."""
        return g

    def direction(self, w: Tensors, g: Tensors, *_: Any, **memory: Any) -> Tensors | Direction:
        """The perturbation at radius one, `e / ρ`: tensors, or a `Direction`, with a scalar to multiply them by.

        The tensors may be those of `g`: the engine copies them before it scales them.
        """
        raise NotImplementedError

    def second_pass(self, closure: Closure, losses: Tensor) -> float:
        """The second pass, at `w + e`; returns the share of a forward-backward pass that it is.

        Args:
            losses: what the closure returned in the first pass.
        """
        closure()
        return 1.0

    def combine(self, g: Tensors, h: Tensors, *_: Any, **memory: Any) -> Tensors:
        """The direction `v` that the base optimizer is given."""
        return h

    def combine_single(self, g: Tensors, *_: Any, **memory: Any) -> Tensors:
        """The direction `v` in a step of a single pass."""
        return g

    def correction(self, g: Tensors, h: Tensors) -> Tensors | None:
        """What is added to the weights after the base optimizer's step, times the learning rate, in new tensors; of
        steps of two passes."""
        return None

    def remember(self, closure: Closure) -> None:
        """Take this as the closure of the step before, where a method `repeats_batch`: after a state is loaded."""
        raise NotImplementedError

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter before its first step; the names are those of the hooks' `memory`."""
        return {}

    def update_state(self, g: Tensors, h: Tensors, *_: Any, **memory: Any) -> dict[str, Tensors]:
        """What is remembered after a step of two passes, in new tensors."""
        return {}

    def radius(self, group: dict[str, Any]) -> float | Tensor:
        """The radius of a parameter group at the present step: a number, or a scalar on the group's device."""
        rho: float | Tensor = group.get("rho", self.defaults["rho"])
        return rho

    def names(self) -> dict[Tensor, str]:
        """The parameters' names, where the optimizer was given them."""
        named = [group for group in self.param_groups if "param_names" in group]
        return {p: name for group in named for p, name in zip(group["params"], group["param_names"], strict=True)}
