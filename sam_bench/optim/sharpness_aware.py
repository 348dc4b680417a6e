"""The step that every method shares: perturb, second pass, restore, update.

Letters are those of the papers: `w` are the weights, `g = ∇L(w)` the gradient of the first pass, `e` the perturbation,
`h = ∇L(w + e)` the gradient of the second pass, `v` the direction given to the base optimizer, and `rho` (ρ) the
radius of the perturbation.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.torch_version import TorchVersion

from sam_bench.optim.accumulation import find_accumulated, find_leftovers
from sam_bench.optim.base import base_of, exchanges_weights, is_training
from sam_bench.optim.checkpoint import apply_state, collect_state
from sam_bench.optim.distributed import Shards, reshard
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, Tensors, add, fill_missing, is_sharded, like, real
from sam_bench.optim.guard import guarded_step
from sam_bench.optim.method import Closure, Method
from sam_bench.optim.norms import Direction, global_norm, over, scale_to_norm
from sam_bench.optim.options import Option
from sam_bench.optim.perturbation import perturb, restore, scale_by_group
from sam_bench.optim.progress import HalfStep, Progress, SharedAttribute
from sam_bench.optim.replicas import Replicas
from sam_bench.optim.running_stats import RunningStatistics
from sam_bench.optim.scaling import refuse_scalers_step, scale_again, unscale, unscale_with_scaler

_RHO = Option("rho", float, "the radius", ge=0)
_CLIP_NORM = Option("clip_norm", float, "greatest norm of the direction", gt=0, optional=True)
_START = Option("start", int, "the first step that perturbs", ge=0)
_SYNC_PERTURBATION = Option("sync_perturbation", bool, "whether processes perturb along the averaged gradient")

# Before torch 2.12, torch.compile fails on a loop that sets an attribute of an optimizer: steps then run uncompiled.
_uncompiled_before_torch_2_12: Callable[[Callable[..., Any]], Any] = (
    torch.compiler.disable if TorchVersion(torch.__version__) < "2.12" else lambda step: step
)


@dataclass
class Passes:
    """The results of the passes of one part of a batch."""

    #: The first pass's mean loss; what the closure returned, if it computed no gradient.
    loss: Any
    #: Gradients at `w`, or what the method keeps of them during the second pass.
    g: Gradients
    #: Gradients at `w + e`, or at `w` if there was one pass; empty if the closure computed none.
    h: Gradients
    #: False if the first of two passes was not finite: a boolean scalar on the device. `_update` checks the last pass.
    finite: Any
    had_second_pass: bool


class SharpnessAware(Method):
    """A base optimizer that is given a sharpness-aware method's direction instead of the gradient.

    One step: `g = ∇L(w)`; `e = ρ · direction(w, g)`; `h = ∇L(w + e)`; the weights are restored by copy, bit for bit and
    into the same storage; `v = combine(g, h)` goes to the base optimizer. If a gradient or `v` is not finite, the step
    changes nothing (weights, running statistics, the base's state and the method's memory), and `skipped` counts it.
    A step does not wait for the device, except as `guarded_step` says, or if the gradient decides (AE-SAM).

    Parameter groups and state are the base's own, so learning-rate schedulers and `zero_grad` work on either optimizer.
    Each group also has a radius `rho`. Methods are subclasses, which override the hooks of `Method`.

    Args:
        params: parameters or groups, as torch's optimizers take them; a group may have its own `rho`.
        base_optimizer: a class, constructed here with `base_options`, or an instance made with these params.
        rho: the radius ρ of every group that has none of its own.
        model: the module whose running statistics are kept, so that they change in the unperturbed pass only. None
            leaves them to the caller (see `frozen_statistics`). If it is a `DistributedDataParallel`, the step also
            decides which passes average gradients: see `sync_perturbation`.
        batchnorm: "clean" lets running statistics change in the unperturbed pass only, "both" in both passes.
        clip_norm: the greatest Euclidean norm of the direction `v`; `g` and `h` themselves are not clipped.
        sync_perturbation: with several processes, perturb along the averaged gradient instead of each process's own.
        start: the first step, counted from 0, that the method takes. Earlier steps are the base optimizer's own, with
            one pass; its momentum carries over. Zhou et al. (2024, arXiv:2410.10373) start SAM late in training, with
            a new base optimizer. A plain attribute, not part of the state.

    Raises:
        ValueError: rho, clip_norm or start is out of range, batchnorm is neither "clean" nor "both", the base has other
            parameters or is of a kind that cannot be a base, or start is set for a method without a second pass.
        TypeError: base options are given for an instance, or ones that the base's class does not take.

    Example:
        >>> class SignSAM(SharpnessAware):
        ...     def direction(self, w, g):
        ...         return torch._foreach_sign(g)
        >>> optimizer = SignSAM(model.parameters(), torch.optim.SGD, rho=0.001, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> optimizer.steps, optimizer.passes
        (1, 2.0)
    """

    #: Tells a GradScaler's `step` not to unscale gradients before it calls ours, which then refuses the call.
    _step_supports_amp_scaling = True

    #: Steps done so far, skipped ones included.
    steps = SharedAttribute[int]()
    #: Forward-backward passes over a whole batch so far. A pass over a part of a batch counts as that part; with
    #: `first_step` and `second_step` each pass counts as a whole one.
    passes = SharedAttribute[float]()
    #: Number of steps that changed nothing because a gradient was not finite: a scalar on the device.
    skipped = SharedAttribute[Tensor]()
    #: True if the last step created no state of the base optimizer.
    settled = SharedAttribute[bool]()
    #: Tensors that the method keeps from step to step, by parameter and name.
    memory = SharedAttribute[dict[Tensor, dict[str, Tensor]]]()
    _opt_called = SharedAttribute[bool]("stepped")  # torch's schedulers set this name and look for it

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.05,
        *,
        model: nn.Module | None = None,
        batchnorm: Literal["clean", "both"] = "clean",
        clip_norm: float | None = None,
        sync_perturbation: bool = False,
        start: int = 0,
        **base_options: Any,
    ):
        if batchnorm not in ("clean", "both"):
            raise ValueError(f"batchnorm={batchnorm!r} must be 'clean' or 'both'")
        if not isinstance(model, nn.Module | None):
            raise TypeError(f"model={model!r} must be a torch.nn.Module or None")
        _CLIP_NORM.check(clip_norm)
        _SYNC_PERTURBATION.check(sync_perturbation)
        _START.check(start)
        if start and not self.two_passes:
            raise ValueError(
                f"start={start} needs a method with a second pass, and {type(self).__name__} has none: leave start out"
            )
        _RHO.check(rho)

        base = base_of(params, base_optimizer, base_options)
        super().__init__(base.param_groups, dict(base.defaults, rho=rho))
        self.base_optimizer = base
        self.batchnorm = batchnorm
        self.clip_norm = clip_norm
        self.sync_perturbation = sync_perturbation
        self.start = start

        # The very objects of the base, so that schedulers and `zero_grad` work on either optimizer.
        self.state = base.state
        self.param_groups = base.param_groups
        self.perturbed: set[Tensor] | None = None

        self.replicas = Replicas(model)
        if self.two_passes and not sync_perturbation:
            self.replicas.refuse_static_graph()
        if model is not None and not set(model.parameters()) & set(self._parameters()):
            raise ValueError("model= has none of the optimizer's parameters: give the module that is trained")
        self.model = model
        self.statistics = RunningStatistics(model)
        self.method_name = type(self).__name__
        self._find_shards()
        device = self._parameters()[0].device
        self.progress = Progress(skipped=torch.zeros((), dtype=torch.int64, device=device))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            _RHO.check(self.param_groups[-1]["rho"])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        if len(self.param_groups) > 1 and "train_mode" in self.param_groups[0]:  # a schedule-free base's mode
            self.param_groups[-1]["train_mode"] = self.param_groups[0]["train_mode"]

    def _find_shards(self) -> Shards | None:
        """Return the processes over which the parameters are sharded now, or None if the parameters are whole.

        A framework may shard them after the optimizer is made, and put the new parameters into its groups.

        Raises:
            ValueError: the parameters are sharded, and the method needs whole tensors, some of them are whole or
                sharded differently, the model was not given, or the method chose among other parameters.
        """
        shards = Shards.of(self._parameters())
        if shards is None:
            return None

        if self.whole_tensors:
            raise ValueError(
                f"{type(self).__name__} works on whole tensors, and these are sharded (fully_shard): use "
                "DistributedDataParallel, or another method"
            )
        if self.model is None:
            raise ValueError(
                "parameters are sharded (fully_shard): give model=, whose gathered weights must be dropped"
            )
        if self.perturbed is not None and not self.perturbed <= set(self._parameters()):
            raise ValueError(
                f"{type(self).__name__} was made with other parameters: call fully_shard() before making the optimizer"
            )
        return shards

    def drop_gathered(self) -> None:
        """Drop the whole weights that FSDP2 modules have gathered, if the parameters are sharded."""
        if self.model is not None and is_sharded(self._parameters()[0]):
            reshard(self.model)

    def over_processes(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over all processes, the same in each of them."""
        return self.replicas.mean(value)

    @property
    def parallel(self) -> DistributedDataParallel | None:
        """Return the model if it is a `DistributedDataParallel`, else None."""
        return self.replicas.parallel

    # Stepping.

    @property
    def next_has_second_pass(self) -> bool:
        """Return True if the next step has a second pass, or may have one because its gradient decides."""
        return self.steps >= self.start and self.has_second_pass(self.steps - self.start)

    @overload  # type: ignore[override]
    def step(
        self,
        closure: Closure | Sequence[Closure],
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @_uncompiled_before_torch_2_12
    @torch.no_grad()
    def step(
        self,
        closure: Closure | Sequence[Closure] | None = None,
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor | None:
        """Take one step; return the loss of the first pass, on the device.

        If the closure computes no gradient, nothing happens, as with torch's optimizers: Lightning's weight averaging
        and a `training_step` that returns None make such closures. The first time, a warning says so.

        After `first_step`, a call without a closure is `second_step`, for frameworks that call `step()` themselves.
        Step pre-hooks are then called in both halves.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the loss; called once per
                pass. Several closures are the parts of one batch, each with its own perturbation (m-sharpness); the
                rest of the step is done once, with the mean gradients. All processes must pass one closure, or all
                several; with several, a parameter without a gradient counts as one whose gradient is 0.
            weights: the parts' shares of the batch; by default they are equal.
            scaler: the loss scaling with which the closure computes gradients. The caller calls `scaler.update()`.

        Raises:
            ValueError: there is no closure, the weights do not fit, a closure computes no gradient although it is one
                of several or is called for its second pass, or a closure adds to gradients that were there before the
                step, as in an accumulation outside the closure.
            TypeError: the closure computes gradients, but returns no tensor.
            RuntimeError: `first_step` was called and `second_step` was not, or a GradScaler's `step` called this.
            Exception: whatever the closure raises; weights and running statistics are then as before the step.
        """
        refuse_scalers_step(self)
        half_step = self.progress.half_step
        if closure is None and half_step is not None:
            self._finish_half_step(half_step.scaler if scaler is None else scaler)
            return None
        self._refuse_during_step("step()")

        parts = _pair_with_weights(closure, weights)
        is_one_closure = callable(closure)
        if not is_one_closure:
            self._refuse_several_closures()

        statistics_before = self.statistics.read()
        loss: Any = 0.0
        g: Gradients = {}
        h: Gradients = {}
        finite: Any = None
        try:
            with over(self._find_shards()):
                for number, (part, weight) in enumerate(parts, start=self._first_part_number(len(parts))):
                    passes = self._run_passes(number, part, weight, scaler, is_one_closure)
                    if not passes.h:
                        return cast(Tensor | None, passes.loss)  # there is no step, as with torch's optimizers

                    loss = loss + weight * passes.loss
                    finite = passes.finite if finite is None else finite & passes.finite
                    g = add(g, passes.g, weight)
                    h = add(h, passes.h, weight) if passes.had_second_pass else g
                    passes.g, passes.h = {}, {}  # not to be held in memory during the next part

                # The passes of several closures leave out DDP's averaging, so it is done here, once.
                if not is_one_closure:
                    h = self.replicas.average(h, self._parameters())
                    g = g if passes.had_second_pass else h
                self._update(g, h, finite, passes.had_second_pass, statistics_before, scaler)
        except BaseException:
            self._undo_step(statistics_before)
            self._clear_gradients()  # they belong to an unfinished step
            raise
        return cast(Tensor, loss)

    @_uncompiled_before_torch_2_12
    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> bool:
        """Take the first half of a step: from the gradients at `w`, in `.grad`, to the weights `w + e`.

        With several processes these gradients are used as they are: compute them under `no_sync()` to give each process
        its own perturbation. Hooks of `register_step_pre_hook` are called first.

        Args:
            zero_grad: clear the gradients for the second pass; if False, clear them yourself.
            scaler: the loss scaling that these gradients carry.

        Returns:
            True if this step needs gradients between the two calls. If False, the weights are `w`, and `second_step`
            uses the gradients of the first pass and ignores any computed since.

        Raises:
            RuntimeError: `first_step` was called and `second_step` was not, both passes of the method are at perturbed
                weights, or a pre-hook returned new arguments.
            ValueError: no parameter has a gradient, because backward() was not called on the loss.
        """
        self._refuse_during_step("first_step()")
        if self.perturbs_first and self.two_passes:
            raise RuntimeError(f"{self.method_name} perturbs before both of its passes: call step(closure)")
        for hook in self._optimizer_step_pre_hooks.values():
            if hook(self, (), {}) is not None:
                raise RuntimeError("a step pre-hook cannot replace its arguments in first_step(): return None from it")

        clean_statistics = self.statistics.read()
        try:
            with over(self._find_shards()):
                # The only gradient is taken at perturbed weights, so none is there yet.
                if self.perturbs_first:
                    if zero_grad:
                        self._clear_gradients()
                    self._perturb(self._compute_perturbation_ahead(0))
                    self.progress.half_step = HalfStep(
                        self.next_has_second_pass, {}, self._true_on_device(), clean_statistics, scaler
                    )
                    return True

                g = self._take_gradients(keep=not zero_grad)
                finite = unscale(g, scaler)
                has_second_pass = self._takes_second_pass(g)
                if has_second_pass:
                    self._perturb(self._compute_perturbation(g, finite))
                else:
                    scale_again(g, scaler)
        except BaseException:
            self._undo_step(clean_statistics)
            raise

        self.passes += 1
        self.progress.half_step = HalfStep(
            has_second_pass,
            self._kept_of(g) if has_second_pass else g,
            finite,
            clean_statistics,
            scaler,
        )
        return has_second_pass

    @_uncompiled_before_torch_2_12
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> None:
        """Take the second half of a step: restore `w`, then step the base with the gradients at `w + e`, in `.grad`.

        Hooks of `register_step_post_hook` are called at its end.

        If a gradient is not finite, the running statistics become those after the previous step. In the first step
        after construction or loading, they become those after the first pass.

        Args:
            zero_grad: clear the gradients after the step.
            scaler: the one given to `first_step`.

        Raises:
            RuntimeError: `first_step` was not called, or the scaler has unscaled the gradients already; in the second
                case the step is undone.
            ValueError: no parameter has a gradient, or `first_step` was given another scaler; the step is undone.
        """
        self._finish_half_step(scaler)
        if zero_grad:
            self._clear_gradients()
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (), {})

    def _finish_half_step(self, scaler: GradScaler | None) -> None:
        """Take the second half of a step, without the post-hooks.

        Raises:
            RuntimeError: `first_step` was not called.
            ValueError: no parameter has a gradient, or `first_step` was given another scaler.
        """
        half_step = self.progress.half_step
        if half_step is None:
            raise RuntimeError("second_step() came first: call first_step() before it")
        needs_gradients = half_step.has_second_pass or self.perturbs_first
        if scaler is not half_step.scaler:
            self.restore()
            raise ValueError("first_step() and second_step() must be given the same scaler; the step was undone")

        try:
            h = self._take_gradients() if needs_gradients else half_step.g
        except ValueError:
            self.restore()
            raise
        self.passes += needs_gradients
        self._restore_weights()
        if self.batchnorm == "clean" and not self.perturbs_first:
            self.statistics.write(half_step.clean_statistics)
        self.progress.half_step = None

        # The caller could not average these: in the first pass it was not known that there is no second one.
        if not needs_gradients:
            h = self.replicas.average(h, self._parameters())
        g = half_step.g if half_step.has_second_pass else h

        statistics_before = self._statistics_before(half_step)
        try:
            with over(self._find_shards()):
                self._update(g, h, half_step.finite, half_step.has_second_pass, statistics_before, scaler)
        except BaseException:
            self._undo_step(statistics_before)
            raise
        self._opt_called = True

    @torch.no_grad()
    def restore(self) -> None:
        """Undo a step between `first_step` and `second_step`: put weights and running statistics back.

        Both are then as before the step. In the first step after construction or loading, the running statistics are as
        after the first pass.
        """
        half_step = self.progress.half_step
        if half_step is None:
            self._restore_weights()
        else:
            self._undo_step(self._statistics_before(half_step))
            self.progress.half_step = None

    def count_replay(self, passes: float) -> None:
        """Count a replay of the CUDA graph in which an earlier step was captured.

        Counters on the device, such as `skipped`, are part of the graph.

        Args:
            passes: forward-backward passes of the captured step.
        """
        self.steps += 1
        self.passes += passes

    def host_state(self) -> Progress:
        """Return a copy of the progress until now, for `set_host_state`; its tensors are shared."""
        return self.progress.copy()

    def set_host_state(self, state: Progress) -> None:
        """Forget a step that ran on the host but not on the device, as in a failed capture.

        Args:
            state: what `host_state` returned before that step.
        """
        self.progress.become(state)
        self._clear_gradients()

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state and groups, in torch's usual form, and the entry `sharpness_aware`.

        Raises:
            RuntimeError: it is called between `first_step` and `second_step`, or while the base's evaluation weights
                are in place of the weights that it trains.
        """
        self._refuse_during_step("state_dict()")
        if exchanges_weights(self.base_optimizer) and not is_training(self.base_optimizer):
            raise RuntimeError(
                "state_dict() was called while the base optimizer's evaluation weights are in place: leave "
                "evaluated_weights(), or call base_optimizer.train(), first"
            )

        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self._collect_state()
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`; load the model's weights too, since a half-done step is forgotten.

        Raises:
            ValueError: the groups do not match, or another class saved the state.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self._apply_state(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _collect_state(self) -> dict[str, Any]:
        """Return the content of `state_dict`, without its hooks; methods add entries of their own."""
        return collect_state(self.base_optimizer, self._parameters(), self.progress, self.method_name)

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`, without its hooks; methods load their own entries.

        Raises:
            ValueError: the groups do not match, or another class saved the state.
        """
        apply_state(state_dict, self.base_optimizer, self._parameters(), self.progress, self.method_name)

    @torch.no_grad()
    def create_state(self) -> None:
        """Create all state that the first step would, for a checkpoint to be loaded into; the weights stay the same.

        `torch.distributed.checkpoint` loads into existing tensors, which a new optimizer does not have yet::

            state = {"model": model, "optimizer": optimizer}
            torch.distributed.checkpoint.save(state, checkpoint_id=folder)

            optimizer.create_state()  # a new one, of a new model
            torch.distributed.checkpoint.load({"model": model, "optimizer": optimizer}, checkpoint_id=folder)

        A checkpoint has no state of parameters that never had a gradient: load such a one with
        `planner=DefaultLoadPlanner(allow_partial_load=True)`. torch's `get_optimizer_state_dict` would leave out the
        method's memory.

        Raises:
            RuntimeError: a step was taken, or half of one.
        """
        self._refuse_during_step("create_state()")
        if self.steps:
            raise RuntimeError(f"create_state() after {self.steps} steps: call it on a new optimizer, before any step")

        # A base creates its state in its first step; whatever that step does to the weights is undone.
        parameters = [p for p in self._parameters() if p.requires_grad]
        weights = [real(p).clone() for p in parameters]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        self.base_optimizer.step()
        torch._foreach_copy_([real(p) for p in parameters], weights)
        self._clear_gradients()
        self._recall(parameters)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without `step`, which a learning-rate scheduler sets to a wrapper of its own."""
        return {key: value for key, value in self.__dict__.items() if key != "step"}

    # Parts of a step.

    def _first_part_number(self, count: int) -> int:
        """Return the number of this process's first part of a batch, if each process has `count` parts."""
        return 0 if self.sync_perturbation else self.replicas.rank * count

    def _run_passes(
        self, number: int, closure: Closure, weight: float, scaler: GradScaler | None, is_one_closure: bool
    ) -> Passes:
        """Run the passes of one part of a batch, and restore `w`.

        If a batch's only closure computes no gradient, the result has none.

        Raises:
            TypeError: the closure computes gradients, but returns no tensor.
            ValueError: the closure computes no gradient, or adds to gradients that were there before the step.
        """
        # 1. The first gradient: at w, or at the weights to which `ahead` moves if the method `perturbs_first`.
        may_have_second_pass = self.next_has_second_pass
        losses = self._run_first_pass(number, closure, is_one_closure and not may_have_second_pass)
        if is_one_closure and not any(p.grad is not None for p in self._parameters()):
            self._warn_without_gradients()
            return Passes(losses, {}, {}, None, had_second_pass=False)
        if not isinstance(losses, Tensor):
            raise TypeError(f"the closure returned {losses!r}: it must return the loss, a tensor")
        losses = losses.detach()
        self.passes += weight
        g = self._take_gradients()
        if not may_have_second_pass:
            # `_update` checks the direction itself.
            return Passes(losses.mean(), g, g, self._true_on_device(), had_second_pass=False)

        finite = unscale(g, scaler)
        if not self._takes_second_pass(g):
            scale_again(g, scaler)
            g = g if self.sync_perturbation else self.replicas.average(g, self._parameters())
            return Passes(losses.mean(), g, g, finite, had_second_pass=False)

        # 2. The gradient at w + e.
        kept_g, h = self._run_second_pass(g, finite, closure, losses, weight, is_one_closure)
        return Passes(losses.mean(), kept_g, h, finite, had_second_pass=True)

    def _run_first_pass(self, number: int, closure: Closure, is_only_pass: bool) -> Any:
        """Run the first pass of one part of a batch, restore `w`, and return what the closure returned.

        Raises:
            ValueError: the closure adds to gradients that were there before the step.
        """
        try:
            if self.perturbs_first and self.steps >= self.start:
                self._perturb(self._compute_perturbation_ahead(number))

            # One gradient from before the step stays in place, to see whether the closure clears it or adds to it.
            accumulated = find_accumulated(self._parameters(), self.progress.leftovers)
            self._clear_gradients()
            if accumulated is not None:
                accumulated.put_back()

            with self.replicas.sync_if(is_only_pass or self.sync_perturbation), torch.enable_grad():
                losses = closure()
            if accumulated is not None:
                accumulated.refuse_if_added_to()
        finally:
            self._restore_weights()
        return losses

    def _run_second_pass(
        self, g: Gradients, finite: Tensor, closure: Closure, losses: Tensor, weight: float, is_one_closure: bool
    ) -> tuple[Gradients, Gradients]:
        """Run the second pass of one part of a batch, and restore `w`; return what is kept of `g`, and `h`.

        Raises:
            ValueError: the closure computes no gradient.
        """
        e = self._compute_perturbation(g, finite)
        kept_g = self._kept_of(g)
        g.clear()  # the second pass needs the memory
        clean_statistics = self.statistics.read()
        try:
            self._perturb(e)
            del e
            with self.replicas.sync_if(is_one_closure), torch.enable_grad():
                self.passes += weight * self.second_pass(closure, losses)
        finally:
            self._restore_weights()
        if self.batchnorm == "clean":
            self.statistics.write(clean_statistics)
        return kept_g, self._take_gradients()

    def _warn_without_gradients(self) -> None:
        """Warn, once, that a closure computed no gradient: on purpose, or because `backward()` was forgotten."""
        if not self.progress.warned_without_gradients and not torch.compiler.is_compiling():
            self.progress.warned_without_gradients = True
            warnings.warn(
                "The closure left no parameter with a gradient, so step() did nothing. If it should have computed one, "
                "call backward() on the loss in it.",
                stacklevel=6,  # torch wraps step() twice
            )

    def _take_gradients(self, keep: bool = False) -> Gradients:
        """Take the gradients from the parameters' `.grad`, or copy them if they are to be kept there.

        Raises:
            ValueError: no parameter has a gradient, or a gradient is sparse.
        """
        gradients: Gradients = {}
        copied = keep or (self.parallel is not None and self.parallel.gradient_as_bucket_view)
        for p in self._parameters():
            if p.grad is not None:
                if p.grad.is_sparse:
                    raise ValueError("a gradient is sparse, which no method supports: make the layer with sparse=False")
                gradients[p] = real(p.grad.clone() if copied else p.grad)
                if not keep:
                    p.grad = None
        if not gradients:
            raise ValueError("no parameter has a gradient: backward() must have been called on the loss")
        return gradients

    def _clear_gradients(self) -> None:
        """Set every `.grad` to None, as `zero_grad` does, which torch.compile cannot trace."""
        for p in self._parameters():
            p.grad = None

    def _takes_second_pass(self, g: Gradients) -> bool:
        """Return True if this step takes a second pass; wait for the device if its gradient decides."""
        if not self.next_has_second_pass:
            return False
        return not self.gradient_decides or bool(self.wants_second_pass(list(g.values())))

    def _kept_of(self, g: Gradients) -> Gradients:
        """Return what the method needs of `g` after the second pass; nothing, if it does not need it."""
        return dict(zip(g, self.of_part(list(g.values())), strict=True)) if self.keeps_gradient else {}

    def _compute_perturbation(self, g: Gradients, finite: Tensor) -> Gradients:
        """Return `e`, or 0 if g is not finite: a second pass at weights that are not finite may fail in any way."""
        chosen = {p: x for p, x in g.items() if self.perturbed is None or p in self.perturbed}
        if not chosen:
            return {}

        memory: dict[str, Any] = self._recall(chosen)
        if self.needs_names:
            names = self.names()
            memory["names"] = [names[p] for p in chosen]
        direction = self.direction([real(p) for p in chosen], list(chosen.values()), **memory)
        d, factor = direction if isinstance(direction, Direction) else (direction, 1.0)
        return scale_by_group(self.param_groups, list(chosen), d, lambda group: factor * self.radius(group), finite)

    def _compute_perturbation_ahead(self, part: int) -> Gradients:
        """Return the perturbation before the first gradient, for a part of the batch."""
        d, factor = self.ahead(part)
        return scale_by_group(self.param_groups, list(d), list(d.values()), factor, self._true_on_device())

    def _perturb(self, e: Gradients) -> None:
        """Keep a copy of `w`, and set the weights to `w + e`."""
        if e:
            perturb(e, self.progress)
            self._forget_old_weights()

    def _restore_weights(self) -> None:
        """Set the weights back to `w` by copy, if they are perturbed."""
        if self.progress.perturbed_now:
            restore(self.progress)
            self._forget_old_weights()
            self.progress.perturbed_now = []

    def _forget_old_weights(self) -> None:
        """Drop copies of the weights that frameworks keep: FSDP2's whole ones, and autocast's in half precision."""
        self.drop_gathered()
        torch.clear_autocast_cache()

    def _undo_step(self, statistics_before: FlatCopy) -> None:
        """Put weights and running statistics back to what they were before the step."""
        self._restore_weights()
        self.statistics.write(statistics_before)

    def _update(
        self,
        g: Gradients,
        h: Gradients,
        finite: Tensor,
        had_second_pass: bool,
        statistics_before: FlatCopy,
        scaler: GradScaler | None,
    ) -> None:
        """Step the base optimizer with the direction made of the whole batch's gradients.

        If something is not finite, weights, running statistics and all state stay as before the step.
        """
        g, finite = self._agree_over_processes(g, h, finite)
        if scaler is not None:
            unscale_with_scaler(h, finite, scaler, self)

        # The hooks take lists of tensors in one order: g and h of the same parameters.
        parameters = [p for p in self._parameters() if p in h or p in g]
        w = [real(p) for p in parameters]
        all_h = fill_missing(parameters, h)
        all_g = all_h if g is h or not self.keeps_gradient else fill_missing(parameters, g)
        memory = self._recall(parameters) | ({"weights": w} if self.needs_weights else {})
        if had_second_pass:
            v = self.combine(all_g, all_h, **memory)
            correction = self.correction(all_g, all_h)
            new_memory = self.update_state(all_g, all_h, **memory)
        else:
            v, correction, new_memory = self.combine_single(all_h, **memory), None, {}

        # Checked on the device: asking the host whether to skip would stall the GPU.
        if v is not all_h:
            finite = finite & torch.isfinite(global_norm(all_h))
        norm = global_norm(v)
        finite = finite & torch.isfinite(norm)
        if self.clip_norm is not None:
            v = scale_to_norm(v, self.clip_norm, norm)

        # A parameter without h gets no gradient if v is h, as without a method.
        self._clear_gradients()
        for p, x in zip(parameters, v, strict=True):
            if v is not all_h or p in h:
                p.grad = like(p, x)
        self.settled = not guarded_step(self.base_optimizer, finite)
        self.drop_gathered()
        self.progress.leftovers = find_leftovers(self._parameters())
        if correction is not None:
            step = scale_by_group(self.param_groups, parameters, correction, lambda group: group["lr"], finite)
            torch._foreach_add_(w, list(step.values()))

        self._store_method_state(parameters, new_memory, finite)
        if self.gradient_decides and self.next_has_second_pass:
            self.keep_decision(finite)
        self.progress.statistics_after_step = self.statistics.keep_if(finite, otherwise=statistics_before)
        self.skipped = self.skipped.to(finite.device)
        self.skipped += ~finite
        self.steps += 1
        torch.clear_autocast_cache()

    def _agree_over_processes(self, g: Gradients, h: Gradients, finite: Tensor) -> tuple[Gradients, Tensor]:
        """Return `g` averaged over processes as `h` is, and a boolean scalar, true if `finite` is true in all."""
        if self.replicas.parallel is None:
            return g, finite
        if g is not h and self.keeps_gradient and not self.sync_perturbation:
            g = {p: x for p, x in self.replicas.average(g, self._parameters()).items() if p in h}
        return g, self.replicas.everywhere(finite)

    def _store_method_state(self, parameters: list[Tensor], new_memory: dict[str, Tensors], finite: Tensor) -> None:
        """Write the method's new memory, in place, unless `finite` is false."""
        for name, values in new_memory.items():
            stored = [self.memory[p][name] for p in parameters]
            before = FlatCopy(stored)
            torch._foreach_copy_(stored, values)
            before.keep_if(finite, stored)

    def _statistics_before(self, half_step: HalfStep) -> FlatCopy:
        """Return the running statistics before a step by hand, whose first pass ran before `first_step`.

        They are those after the previous step; without one, those after the first pass.
        """
        after_last_step = self.progress.statistics_after_step
        return half_step.clean_statistics if after_last_step is None else after_last_step

    def _true_on_device(self) -> Tensor:
        """Return a boolean scalar, true, on the parameters' device."""
        return torch.ones((), dtype=torch.bool, device=self._parameters()[0].device)

    def _recall(self, parameters: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """Return the method's memory of these parameters, by name; create it if there is none."""
        memory: dict[str, list[Tensor]] = {}
        for p in parameters:
            if p not in self.memory:
                self.memory[p] = self.init_state(real(p))
            for name, value in self.memory[p].items():
                memory.setdefault(name, []).append(value)
        return memory

    def _parameters(self) -> list[Tensor]:
        """Return the parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    def _refuse_several_closures(self) -> None:
        """Check that the parts of a batch may have a perturbation each.

        Raises:
            ValueError: the method, or sync_perturbation, has one for the whole batch.
        """
        if self.sync_perturbation:
            raise ValueError(
                "sync_perturbation=True makes one perturbation for the whole batch: give one closure, not several"
            )
        if self.gradient_decides or self.repeats_batch:
            does = "decides for" if self.gradient_decides else "repeats"
            raise ValueError(f"{self.method_name} {does} a whole batch: give one closure, not several")

    def _refuse_during_step(self, caller: str) -> None:
        """Raise an error if a step is half done.

        Raises:
            RuntimeError: `first_step` was called and `second_step` was not.
        """
        if self.progress.half_step is not None:
            raise RuntimeError(
                f"{caller} came between first_step() and second_step(), where the weights are perturbed: "
                "call second_step() to finish the step, or restore() to undo it"
            )


def _pair_with_weights(
    closure: Closure | Sequence[Closure] | None, weights: Sequence[float] | None
) -> list[tuple[Closure, float]]:
    """Return each closure with its weight; by default the weights are equal.

    Raises:
        ValueError: there is no closure, or the weights do not fit the closures.
    """
    if closure is None:
        raise ValueError(
            "step() needs a closure that computes loss and gradients: step(closure), with a GradScaler step(closure, "
            "scaler=scaler); or step by hand with first_step() and second_step()"
        )

    closures = [closure] if callable(closure) else list(closure)
    weights = [1 / len(closures)] * len(closures) if weights is None and closures else list(weights or ())
    fit = len(weights) == len(closures) and all(weight > 0 for weight in weights) and math.isclose(sum(weights), 1)
    if not closures or not fit:
        raise ValueError(
            f"{len(closures)} closures with weights {weights}: give each a weight above 0, with a sum of 1"
        )
    return list(zip(closures, weights, strict=True))
