"""A sharpness-aware method's hooks: its perturbation, its use of both gradients, its memory."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.gradients import Gradients, Tensors
from sam_bench.optim.norms import Direction

Closure = Callable[..., Tensor]
#: What an optimizer is made for: parameters, parameters with their names, or groups of them.
Params = Iterable[Any]
#: A base optimizer's class, or an instance of one.
BaseOptimizer = type[Optimizer] | Optimizer


class Method(Optimizer):
    """The hooks that `SharpnessAware` calls, with the defaults that apply unless a method overrides them.

    `w` are the parameters, `g = ∇L(w)` (or at perturbed weights, if a method `perturbs_first`) and `h = ∇L(w + e)`:
    lists of real tensors in one order. A hook changes none of its arguments, but may return one, and does not wait for
    the device. `update_state` must not return what `combine` returned, since the base optimizer may overwrite that.
    `memory` is what the method has stored for these parameters, under the names that `init_state` gives, and what its
    flags ask for besides. `*_` lets an override name it as ordinary arguments.
    """

    #: True if `combine`, `correction` or `update_state` needs `g`. If False, they receive `h` in its place, and the
    #: memory of `g` is free in the second pass.
    keeps_gradient = False

    #: True if the closure returns one loss per example, and takes an index of examples: see `ESAM`.
    selects_examples = False

    #: True if the first gradient is taken at perturbed weights: see `ahead`.
    perturbs_first = False

    #: True if any step has a second pass.
    two_passes = True

    #: True if the first pass's gradient decides whether a step has a second pass: see `wants_second_pass`.
    gradient_decides = False

    #: True if `combine`, `combine_single` and `update_state` take the weights `w` as `weights`, for weight decay.
    needs_weights = False

    #: True if `direction` takes the parameters' names as `names`, a list of strings.
    needs_names = False

    #: True if a step calls the previous step's closure again: see `remember`.
    repeats_batch = False

    #: True if an element's perturbation depends on its place in the tensor or on other elements of that tensor.
    #: Sharded parameters are then refused.
    whole_tensors = False

    #: The parameters that are perturbed; None for all.
    perturbed: set[Tensor] | None

    def has_second_pass(self, t: int) -> bool:
        """Return True if step `t` has a second pass, or may have one; `t` is 0 at the step `start`."""
        return self.two_passes

    def wants_second_pass(self, g: Tensors) -> Tensor:
        """Return a boolean scalar, true if this step takes its second pass; called if `gradient_decides`.

        It must be the same in all processes (see `SharpnessAware.over_processes`). The step waits for it.
        """
        raise NotImplementedError

    def keep_decision(self, finite: Tensor) -> None:
        """Store, at the end of a step, the values behind its decision, unless `finite` (a boolean scalar) is false."""
        raise NotImplementedError

    def ahead(self, part: int) -> tuple[Gradients, Callable[[dict[str, Any]], Tensor | float]]:
        """Return the perturbation before the first gradient, for a method that `perturbs_first`.

        Args:
            part: number of the part of the batch, from 0 and over all processes; each part has its own perturbation.

        Returns:
            Tensors by parameter, and a function that gives the factor of a parameter group's tensors.
        """
        raise NotImplementedError

    def of_part(self, g: Tensors) -> Tensors:
        """Return what stands for a part's `g` in the mean over parts and processes, which `combine` receives as `g`."""
        return g

    def direction(self, w: Tensors, g: Tensors, *_: Any, **memory: Any) -> Tensors | Direction:
        """Return the perturbation at radius one, `e / ρ`: tensors, or a `Direction` with a scalar factor.

        The tensors may be those of `g`: they are copied before they are scaled.
        """
        raise NotImplementedError

    def second_pass(self, closure: Closure, losses: Tensor) -> float:
        """Run the second pass, at `w + e`; return its share of a whole forward-backward pass.

        Args:
            losses: what the closure returned in the first pass.
        """
        closure()
        return 1.0

    def combine(self, g: Tensors, h: Tensors, *_: Any, **memory: Any) -> Tensors:
        """Return the direction `v` that is given to the base optimizer."""
        return h

    def combine_single(self, g: Tensors, *_: Any, **memory: Any) -> Tensors:
        """Return the direction `v` of a step with a single pass."""
        return g

    def correction(self, g: Tensors, h: Tensors) -> Tensors | None:
        """Return new tensors to add to the weights after the base optimizer's step, times the learning rate.

        Called in steps with two passes only.
        """
        return None

    def remember(self, closure: Closure) -> None:
        """Set the previous step's closure, for a method that `repeats_batch`, after a state is loaded."""
        raise NotImplementedError

    def init_state(self, p: Tensor) -> dict[str, Tensor]:
        """Return a parameter's memory before its first step; its names are the keywords of the hooks' `memory`."""
        return {}

    def update_state(self, g: Tensors, h: Tensors, *_: Any, **memory: Any) -> dict[str, Tensors]:
        """Return the memory after a step with two passes, in new tensors."""
        return {}

    def radius(self, group: dict[str, Any]) -> float | Tensor:
        """Return a parameter group's radius in this step: a number, or a scalar on the group's device."""
        rho: float | Tensor = group.get("rho", self.defaults["rho"])
        return rho

    def names(self) -> dict[Tensor, str]:
        """Return the names of the parameters that the optimizer was given with names."""
        named = [group for group in self.param_groups if "param_names" in group]
        return {p: name for group in named for p, name in zip(group["params"], group["param_names"], strict=True)}
