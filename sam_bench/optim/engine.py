"""The step that every method shares: perturb, second pass, restore, update."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.torch_version import TorchVersion

from sam_bench.optim.base import base_of, exchanges_weights, is_training, load_in_place
from sam_bench.optim.distributed import Shards, average, everywhere, mean, rank
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, Tensors, add, is_sharded, like, local, loss_scale, real, sharded_like
from sam_bench.optim.guard import guarded_step
from sam_bench.optim.method import Closure, Method
from sam_bench.optim.norms import Direction, global_norm, over, scale_to_norm
from sam_bench.optim.options import Option
from sam_bench.optim.progress import Accumulated, Between, Left, Progress, Shared
from sam_bench.optim.running_stats import RunningStatistics

_RHO = Option("rho", float, "the radius", ge=0)
_CLIP_NORM = Option("clip_norm", float, "greatest norm of the direction", gt=0, optional=True)
_START = Option("start", int, "the first step that perturbs", ge=0)
_SMALL = 4096
"""Elements of a parameter whose gradient is remembered from step to step."""

# torch.compile of a loop fails before torch 2.12 where an attribute of an optimizer is set, so a step is not compiled.
_traced_if_possible: Callable[[Callable[..., Any]], Any] = (
    torch.compiler.disable if TorchVersion(torch.__version__) < (2, 12) else lambda step: step
)

_SYNC_PERTURBATION = Option("sync_perturbation", bool, "whether processes perturb along the averaged gradient")


class SharpnessAware(Method):
    """A base optimizer that is given a sharpness-aware method's direction instead of the gradient.

    One step: `g = ∇L(w)`; `e = ρ · direction(w, g)`; `h = ∇L(w + e)`; the weights are restored by copy, bit for bit and
    into the same storage; `v = combine(g, h)` goes to the base optimizer. Where a gradient or `v` is not finite the
    step changes nothing (weights, statistics, the base's state and what the method remembers) and `skipped` counts it.
    Nothing in a step waits for the device, but for one that creates the base optimizer's state, as the first does.

    Parameter groups and state are the base's own, so learning-rate schedulers and `zero_grad` work on either; each
    group has a radius `rho` besides. Methods are subclasses, which override the hooks of `Method`.

    Args:
        params: as torch's optimizers take them; of groups, each may have a `rho` of its own.
        base_optimizer: a class, constructed here with `base_options`, or an instance made with these params.
        rho: the radius ρ of every group that has none of its own.
        model: the module whose running statistics are looked after, so that they change in the unperturbed pass only;
            None leaves them to the caller (see `frozen_statistics`). A `DistributedDataParallel` is also kept from
            averaging where it need not: see `sync_perturbation`.
        batchnorm: "clean" lets running statistics change in the unperturbed pass only, "both" in both passes.
        clip_norm: the greatest Euclidean norm of the direction `v`; gradients are never clipped before.
        sync_perturbation: with several processes, perturb along the averaged gradient rather than along each one's own.
        start: the first step, counted from 0, that is the method's own. Those before it are the base optimizer's alone,
            of one pass, and their momentum goes on. Zhou et al. (2024, arXiv:2410.10373) begin SAM late in training,
            with a new base optimizer. A plain attribute, no part of the state.

    Raises:
        ValueError: rho, clip_norm or start is out of range, batchnorm is neither, or the base is of other parameters,
            or one that cannot be a base; or there is a start for a method without a second pass.
        TypeError: there are options for a base that is made already, or ones that the base does not take.

    Example:
        >>> class SignSAM(SharpnessAware):
        ...     def direction(self, w, g):
        ...         return torch._foreach_sign(g)
        >>> optimizer = SignSAM(model.parameters(), torch.optim.SGD, rho=0.001, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> optimizer.steps, optimizer.passes
        (1, 2.0)
    """

    _step_supports_amp_scaling = True
    """Asks a GradScaler's own `step` not to unscale gradients before it calls ours, which then refuses it by name."""

    steps = Shared[int]()
    """Steps done so far, skipped ones included."""
    passes = Shared[float]()
    """Forward-backward passes over a whole batch so far; a part of a batch, or of a pass, counts as that part. By hand,
    each counts as a whole one."""
    skipped = Shared[Tensor]()
    """Steps that changed nothing because a gradient was not finite: a scalar on the device."""
    settled = Shared[bool]()
    """Whether the base optimizer had all its state before the last step, which so did not wait for the device."""
    memory = Shared[dict[Tensor, dict[str, Tensor]]]()
    """What the method remembers of each parameter from step to step."""
    _saved = Shared[dict[Tensor, Tensor]]("saved")
    _away = Shared[list[Tensor]]("away")
    _between = Shared[Between | None]("between")
    _single = Shared[bool]("single")
    _resting = Shared[FlatCopy | None]("resting")
    _left = Shared[dict[Tensor, Left]]("left")
    _opt_called = Shared[bool]("stepped")  # what torch's schedulers set, and look for

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
            raise ValueError(f"batchnorm={batchnorm!r} is neither 'clean' nor 'both'")
        if not isinstance(model, nn.Module | None):
            raise TypeError(f"model={model!r} must be a torch.nn.Module or None")
        _CLIP_NORM.check(clip_norm)
        _SYNC_PERTURBATION.check(sync_perturbation)
        _START.check(start)
        if start and not self.two_passes:
            raise ValueError(f"start={start} is of methods with a second pass: {type(self).__name__} begins with one")
        _RHO.check(rho)
        base = base_of(params, base_optimizer, base_options)
        super().__init__(base.param_groups, dict(base.defaults, rho=rho))
        self.base_optimizer = base
        self.batchnorm = batchnorm
        self.clip_norm = clip_norm
        self.sync_perturbation = sync_perturbation
        self.start = start
        self.state = base.state
        self.param_groups = base.param_groups
        self.perturbed: set[Tensor] | None = None
        inner = getattr(model, "_orig_mod", model)  # of a compiled one
        self.parallel = inner if isinstance(inner, DistributedDataParallel) else None
        if self.two_passes and not sync_perturbation:
            self._refuse_static_graph()
        if model is not None and not set(model.parameters()) & set(self._parameters()):
            raise ValueError("model= has none of the parameters: give the module that is trained")
        self.model = model
        self.statistics = RunningStatistics(model)
        self.method_name = type(self).__name__
        self._shards()
        device = self._parameters()[0].device
        self.progress = Progress(skipped=torch.zeros((), dtype=torch.int64, device=device))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            _RHO.check(self.param_groups[-1]["rho"])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        if len(self.param_groups) > 1 and "train_mode" in self.param_groups[0]:  # of a base that exchanges weights
            self.param_groups[-1]["train_mode"] = self.param_groups[0]["train_mode"]

    def _shards(self) -> Shards | None:
        """The processes over which the parameters are sharded at present; None where they are whole.

        A framework may shard them after the optimizer is made, and put the new parameters into its groups.

        Raises:
            ValueError: the method works on whole tensors; some parameters are whole, or sharded in another way; the
                model was not given, or had other parameters when a method chose among them.
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
            raise ValueError(f"{type(self).__name__} was made with other parameters: fully_shard() the model before")
        return shards

    def drop_gathered(self) -> None:
        """Where parameters are sharded, forget the whole ones that an FSDP2 module may have gathered before."""
        if self.model is not None and is_sharded(self._parameters()[0]):
            from torch.distributed.fsdp import FSDPModule  # takes a second to import, and nobody else needs it

            for module in self.model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def over_processes(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all processes, the same in each of them."""
        return value if self.parallel is None else mean(value, self.parallel.process_group)

    # Stepping.

    @property
    def next_has_second_pass(self) -> bool:
        """Whether the next step has a second pass, or may have one, where its gradient decides; during a step, whether
        this one has."""
        return not self._single and self.steps >= self.start and self.has_second_pass(self.steps - self.start)

    @overload  # type: ignore[override]
    def step(
        self,
        closure: Closure | Sequence[Closure],
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @_traced_if_possible
    @torch.no_grad()
    def step(
        self,
        closure: Closure | Sequence[Closure] | None = None,
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor | None:
        """Take one step; return the loss of the first pass, on the device.

        If the closure leaves no gradient, nothing happens, as with torch's optimizers: Lightning's weight averaging
        and a `training_step` that returns None make such closures. The first one is warned of.

        Without a closure, after `first_step`, it is `second_step`: for frameworks that call `step()` themselves. Hooks
        before a step are then called in both halves.

        Args:
            closure: clears the gradients, computes the loss and its gradients, returns the loss; called once a pass.
                Several are the parts of one batch, and each has a perturbation of its own (m-sharpness); the rest of
                the step is done once, with the mean gradients. With several processes all pass one closure, or all
                pass several; in the second case a parameter without a gradient counts as one whose gradient is 0.
            weights: the parts' shares of the batch; by default they are equal.
            scaler: the loss scaling with which the closure computes gradients. The caller calls `scaler.update()`.

        Raises:
            ValueError: there is no closure, or the weights do not fit; one of several closures, or the second call of
                one, leaves no gradient; or it adds to gradients that were there before, as in an accumulation outside
                the closure.
            TypeError: the closure computes gradients and returns no tensor.
            RuntimeError: `first_step` was called, and `second_step` was not; or a GradScaler's `step` called this.
            Exception: whatever the closure raises; weights and running statistics are then as before the step.
        """
        self._refuse_scalers_step()
        if closure is None and self._between is not None:
            self._end_by_hand(self._between.scaler if scaler is None else scaler)
            return None
        self._be_at_rest("step()")
        parts = _parts(closure, weights)
        together = callable(closure)
        if not together and self.sync_perturbation:
            raise ValueError("sync_perturbation is one perturbation for all: it does not go with several closures")
        if not together and (self.gradient_decides or self.repeats_batch):
            does = "decides for" if self.gradient_decides else "repeats"
            raise ValueError(f"{self.method_name} {does} a whole batch: it does not go with several closures")
        before = self.statistics.read()
        g: Gradients = {}
        h: Gradients = {}
        loss: Any = 0.0
        finite: Any = None
        try:
            with over(self._shards()):
                for number, (part, weight) in enumerate(parts, start=self._first_part(len(parts))):
                    passes = self._passes_of(number, part, weight, scaler, together)
                    if not isinstance(passes, tuple):
                        return passes  # there are no gradients, so that there is no step, as with torch's optimizers
                    value, g_part, h_part, ok = passes
                    loss = loss + weight * value
                    finite = ok if finite is None else finite & ok
                    g = add(g, g_part, weight)
                    h = add(h, h_part, weight) if self.next_has_second_pass else g
                    del g_part, h_part
                if not together:
                    h = self._averaged(h)
                    g = g if self.next_has_second_pass else h
                self._update(g, h, finite, before, scaler)
        except BaseException:
            self._give_up(before)
            self._clear_gradients()  # they are of a part of the step
            raise
        return cast(Tensor, loss)

    @_traced_if_possible
    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> bool:
        """Half a step: from the gradients at `w`, which lie in `.grad`, to the weights `w + e`.

        With several processes these gradients are taken as they are: compute them under `no_sync()` for a perturbation
        of each process's own. Hooks that `register_step_pre_hook` registered are called first.

        Args:
            zero_grad: clear the gradients for the second pass; if not, clear them yourself.
            scaler: the loss scaling that these gradients carry.

        Returns:
            Whether this step needs gradients between the two calls. If not, the weights are `w`, and gradients computed
            nevertheless are ignored: `second_step` takes those of the first pass.

        Raises:
            RuntimeError: it was called before, and `second_step` was not; or both passes are at perturbed weights.
            ValueError: no parameter has a gradient: backward() was not called on the loss.
        """
        self._be_at_rest("first_step()")
        if self.perturbs_first and self.two_passes:
            raise RuntimeError(f"{self.method_name} perturbs before both of its passes: call step(closure)")
        for hook in self._optimizer_step_pre_hooks.values():
            if hook(self, (), {}) is not None:
                raise RuntimeError("a step's pre-hook cannot replace its arguments when it is taken by hand")
        clean = self.statistics.read()
        try:
            with over(self._shards()):
                if self.perturbs_first:
                    if zero_grad:
                        self._clear_gradients()
                    self._move(self._perturbation_ahead(0))
                    self._between = Between(self.next_has_second_pass, {}, self._yes(), clean, scaler)
                    return True
                g = self._take(keep=not zero_grad)
                finite = self._unscaled(g, scaler)
                two = self.next_has_second_pass and self._goes_on(g)
                if two:
                    self._move(self._perturbation(g, finite))
                else:
                    self._scale(g, scaler)
        except BaseException:
            self._give_up(clean)
            raise
        self.passes += 1
        self._between = Between(two, g if self.keeps_gradient or not two else {}, finite, clean, scaler)
        return two

    @_traced_if_possible
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> None:
        """The other half: back to `w`, and the base optimizer's step with the gradients at `w + e`, now in `.grad`.

        Hooks that `register_step_post_hook` registered are called at its end.

        Where a gradient was not finite, the running statistics come back to what they were after the previous step; in
        the first step after construction or loading, to what they were after the first pass.

        Raises:
            RuntimeError: `first_step` was not called.
            ValueError: no parameter has a gradient, or `first_step` was given another scaler; the step is given up.
            RuntimeError: the scaler has unscaled the gradients already; the step is given up.
        """
        self._end_by_hand(scaler)
        if zero_grad:
            self._clear_gradients()
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (), {})

    def _end_by_hand(self, scaler: GradScaler | None) -> None:
        if self._between is None:
            raise RuntimeError("second_step() came first: it ends what first_step() begins")
        held = self._between
        fresh = self._between.two or self.perturbs_first
        if scaler is not held.scaler:
            self.restore()
            raise ValueError("first_step() and second_step() must be given the same scaler; the step is given up")
        try:
            h = self._take() if fresh else held.g
        except ValueError:
            self.restore()
            raise
        self.passes += fresh
        self._return()
        if self.batchnorm == "clean" and not self.perturbs_first:
            self.statistics.write(held.clean)
        self._between = None
        if not fresh:
            h = self._averaged(h)  # whether this step had a second pass was not known when its gradients were computed
        before = self._before(held)
        try:
            with over(self._shards()):
                self._update(held.g if held.two else h, h, held.finite, before, scaler)
        except BaseException:
            self._give_up(before)
            raise
        self._opt_called = True

    @torch.no_grad()
    def restore(self) -> None:
        """Give up a step between `first_step` and `second_step`: the weights are as before it, and so are the running
        statistics, but in the first step after construction or loading, where they are as after the first pass.
        """
        if self._between is None:
            self._return()
        else:
            self._give_up(self._before(self._between))
            self._between = None

    def count_replay(self, passes: float) -> None:
        """Count a step that was not called: a replay of the CUDA graph in which an earlier one was captured.

        What is on the device is counted by the replay itself.

        Args:
            passes: of the captured step.
        """
        self.steps += 1
        self.passes += passes

    def host_state(self) -> Progress:
        """What the host knows of the steps until now, for `set_host_state`."""
        return self.progress.copy()

    def set_host_state(self, state: Progress) -> None:
        """Forget a step that the host went through but the device did not take, as in a failed capture.

        Args:
            state: what `host_state` returned before that step.
        """
        self.progress.become(state)
        self._clear_gradients()

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and groups, in torch's usual form, and what the engine adds.

        Raises:
            RuntimeError: between `first_step` and `second_step`, or while a base has put the weights that it evaluates
                in the place of those that it trains.
        """
        self._be_at_rest("state_dict()")
        if exchanges_weights(self.base_optimizer) and not is_training(self.base_optimizer):
            raise RuntimeError(
                "state_dict() while the weights are those that the base evaluates: leave evaluated_weights(), or call "
                "base_optimizer.train(), first"
            )
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self._collect_state()
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`. A step between its halves is forgotten: load the model's weights too.

        Raises:
            ValueError: the groups do not match, or the state was not saved by this class.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self._apply_state(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _collect_state(self) -> dict[str, Any]:
        memory = {
            i: {name: self._as_saved(p, value) for name, value in self.memory[p].items()}
            for i, p in enumerate(self._parameters())
            if p in self.memory
        }
        own = {"steps": self.steps, "passes": self.passes, "skipped": self.skipped.clone(), "memory": memory}
        own["method"] = self.method_name
        state_dict = self.base_optimizer.state_dict()
        if other_dtypes := self._state_of_other_dtypes(state_dict["state"]):
            own["other_dtypes"] = other_dtypes
        return state_dict | {"sharpness_aware": own}

    def _state_of_other_dtypes(self, state: dict[int, dict[str, Any]]) -> dict[int, list[str]]:
        """Return the names of a base's tensors that have another dtype than their parameter, by its number.

        torch's `load_state_dict` would cast them to the parameter's dtype.
        """
        parameters = self._parameters()
        names = {
            i: [name for name, x in own.items() if isinstance(x, Tensor) and x.dim() and x.dtype != parameters[i].dtype]
            for i, own in state.items()
        }
        return {i: of_one for i, of_one in names.items() if of_one}

    def _as_saved(self, p: Tensor, value: Tensor) -> Tensor:
        """What is remembered of a sharded parameter is saved as a sharded tensor, if it is one for each element."""
        return sharded_like(p, value) if is_sharded(p) and value.shape == real(p).shape else value

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        if "sharpness_aware" not in state_dict:
            raise ValueError("this is another optimizer's state: it has no entry 'sharpness_aware'")
        if (owner := state_dict["sharpness_aware"]["method"]) != self.method_name:
            raise ValueError(f"this is the state of {owner}, not of {self.method_name}")
        load_in_place(self.base_optimizer, {key: state_dict[key] for key in ("state", "param_groups")})
        self._between = None
        self._single = False
        self._away = []
        self._resting = None
        self.settled = False
        own = state_dict["sharpness_aware"]
        parameters = self._parameters()

        # torch casts to the parameter's dtype: counters, and moments of another dtype, are taken as they were saved.
        other_dtypes = own.get("other_dtypes", {})
        for i, saved in state_dict["state"].items():
            present = self.base_optimizer.state[parameters[i]]
            for name, value in saved.items():
                if isinstance(value, Tensor) and (value.dim() == 0 or name in other_dtypes.get(i, ())):
                    present[name] = value.to(present[name].device, copy=True)

        self.steps = own["steps"]
        self.passes = own["passes"]
        self.skipped.copy_(own["skipped"])
        self.memory = {
            parameters[i]: {name: local(value).to(parameters[i].device, copy=True) for name, value in of_one.items()}
            for i, of_one in own["memory"].items()
        }

    @torch.no_grad()
    def create_state(self) -> None:
        """Create all state that the first step would, for a checkpoint to be loaded into; the weights stay.

        `torch.distributed.checkpoint` loads into tensors that are there, which a new optimizer's are not::

            state = {"model": model, "optimizer": optimizer}
            torch.distributed.checkpoint.save(state, checkpoint_id=folder)

            optimizer.create_state()  # a new one, of a new model
            torch.distributed.checkpoint.load({"model": model, "optimizer": optimizer}, checkpoint_id=folder)

        Of parameters that never had a gradient a checkpoint has no state: load it with
        `planner=DefaultLoadPlanner(allow_partial_load=True)`. torch's `get_optimizer_state_dict` would leave out what
        the method remembers.

        Raises:
            RuntimeError: a step was taken, or between `first_step` and `second_step`.
        """
        self._be_at_rest("create_state()")
        if self.steps:
            raise RuntimeError(f"create_state() after {self.steps} steps: it is for a new optimizer")
        parameters = [p for p in self._parameters() if p.requires_grad]
        weights = [real(p).clone() for p in parameters]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        self.base_optimizer.step()
        torch._foreach_copy_([real(p) for p in parameters], weights)
        self._clear_gradients()
        self._recall(parameters)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "step"}  # a scheduler's wrapper stays

    # What a step is made of.

    def _first_part(self, count: int) -> int:
        """The number of this process's first part of a batch, of which each process has so many."""
        if self.parallel is None or self.sync_perturbation:
            return 0
        return rank(self.parallel.process_group) * count

    def _passes_of(
        self, number: int, closure: Closure, weight: float, scaler: GradScaler | None, together: bool
    ) -> tuple[Tensor, Gradients, Gradients, Tensor] | Tensor | None:
        """Return loss, g, h and whether g is finite, of one part of a batch; the weights are at `w` afterwards.

        Where a batch's only closure leaves no gradient, return just what the closure returned.
        """
        two = self.next_has_second_pass
        try:
            if self.perturbs_first and self.steps >= self.start:
                self._move(self._perturbation_ahead(number))
            accumulated = self._accumulated()
            self._clear_gradients()
            if accumulated is not None:
                accumulated.parameter.grad = accumulated.gradient
            with self._syncing(together and (not two or self.sync_perturbation)), torch.enable_grad():
                losses = closure()
            self._refuse_accumulated(accumulated)
        finally:
            self._return()
        if together and not any(p.grad is not None for p in self._parameters()):
            self._warn_without_gradients()
            return losses
        if not isinstance(losses, Tensor):
            raise TypeError(f"the closure returned {losses!r}: it must return the loss, a tensor")
        losses = losses.detach()
        self.passes += weight
        g = self._take()
        if not two:
            return losses.mean(), g, g, self._yes()  # the direction will tell
        finite = self._unscaled(g, scaler)
        if not self._goes_on(g):
            self._scale(g, scaler)
            g = g if self.sync_perturbation else self._averaged(g)
            return losses.mean(), g, g, finite
        e = self._perturbation(g, finite)
        kept = self.of_part(list(g.values())) if self.keeps_gradient else []
        g = dict(zip(g, kept, strict=False))  # what is not kept is free memory during the second pass
        clean = self.statistics.read()
        try:
            self._move(e)
            del e
            with self._syncing(together), torch.enable_grad():
                self.passes += weight * self.second_pass(closure, losses)
        finally:
            self._return()
        if self.batchnorm == "clean":
            self.statistics.write(clean)
        return losses.mean(), g, self._take(), finite

    def _warn_without_gradients(self) -> None:
        """Say, once, that a closure computed no gradient: on purpose, or because `backward()` was forgotten."""
        if not self.progress.warned_without_gradients and not torch.compiler.is_compiling():
            self.progress.warned_without_gradients = True
            warnings.warn(
                "The closure left no parameter with a gradient, so that step() did nothing. If it should have "
                "computed one, call backward() on the loss in it.",
                stacklevel=4,
            )

    def _syncing(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        if wanted or self.parallel is None:
            return contextlib.nullcontext()
        self._refuse_static_graph()
        return self.parallel.no_sync()

    def _refuse_static_graph(self) -> None:
        """Raise an error if the model's processes average every gradient, because its graph was declared static.

        Raises:
            ValueError: the model is such a `DistributedDataParallel`.
        """
        if self.parallel is not None and self.parallel.static_graph:
            raise ValueError(
                "DistributedDataParallel(static_graph=True) averages the gradients of every pass, and each process "
                "needs its own for its perturbation. Give sync_perturbation=True for one perturbation along the "
                "averaged gradient, or leave static_graph out"
            )

    def _take(self, keep: bool = False) -> Gradients:
        """The gradients, which are then no longer the parameters' own."""
        found: Gradients = {}
        copied = keep or (self.parallel is not None and self.parallel.gradient_as_bucket_view)
        for p in self._parameters():
            if p.grad is not None:
                if p.grad.is_sparse:
                    raise ValueError("a gradient is sparse, which no method here is made for")
                found[p] = real(p.grad.clone() if copied else p.grad)
                if not keep:
                    p.grad = None
        if not found:
            raise ValueError("no parameter has a gradient: backward() must have been called on the loss")
        return found

    def _unscaled(self, g: Gradients, scaler: GradScaler | None) -> Tensor:
        """Takes the loss scaling out of `g`; returns whether all of it is finite."""
        values = list(g.values())
        if scaler is not None:
            torch._foreach_mul_(values, 1 / loss_scale(scaler, values[0].device))
        return torch.isfinite(global_norm(values))

    def _clear_gradients(self) -> None:
        """As `zero_grad`, which torch.compile does not follow."""
        for p in self._parameters():
            p.grad = None

    def _scale(self, g: Gradients, scaler: GradScaler | None) -> None:
        """Gives `g` the loss scaling that was taken out of it, for `_unscale_last`."""
        if scaler is not None:
            values = list(g.values())
            torch._foreach_mul_(values, loss_scale(scaler, values[0].device))

    def _goes_on(self, g: Gradients) -> bool:
        """Whether a step that may have a second pass has it; waits for the device where its gradient decides."""
        self._single = self.gradient_decides and not self.wants_second_pass(list(g.values()))
        return not self._single

    def _averaged(self, gradients: Gradients) -> Gradients:
        """The means over all processes, of every parameter that can have a gradient."""
        if self.parallel is None:
            return gradients
        every = [p for p in self._parameters() if p.requires_grad]
        whole = _filled(every, gradients)
        average(whole, [real(p) for p in every], self.parallel.process_group)
        return dict(zip(every, whole, strict=True))

    def _perturbation(self, g: Gradients, finite: Tensor) -> Gradients:
        """`e`, or 0 where g is not finite: a second pass at weights that are not may fail in any way."""
        chosen = {p: x for p, x in g.items() if self.perturbed is None or p in self.perturbed}
        if not chosen:
            return {}
        memory: dict[str, Any] = self._recall(chosen)
        if self.needs_names:
            names = self.names()
            memory["names"] = [names[p] for p in chosen]
        direction = self.direction([real(p) for p in chosen], list(chosen.values()), **memory)
        d, factor = direction if isinstance(direction, Direction) else (direction, 1.0)
        e = self._times(list(chosen), d, lambda group: factor * self.radius(group), finite)
        return dict(zip(chosen, e, strict=True))

    def _perturbation_ahead(self, part: int) -> Gradients:
        d, factor = self.ahead(part)
        e = self._times(list(d), list(d.values()), factor, self._yes())
        return dict(zip(d, e, strict=True))

    def _times(
        self, parameters: list[Tensor], x: Tensors, factor: Callable[[dict[str, Any]], Any], finite: Tensor
    ) -> list[Tensor]:
        """Copies of `x`, one tensor a parameter, times their group's factor; 0 where `finite` is false."""
        copies = FlatCopy(x, like=[real(p) for p in parameters])
        place = dict(zip(parameters, copies.views, strict=True))
        for group in self.param_groups:
            if own := [place[p] for p in group["params"] if p in place]:
                torch._foreach_mul_(own, factor(group))
        copies.zero_unless(finite)
        return copies.views

    def _move(self, e: Gradients) -> None:
        """From `w` to `w + e`."""
        if not e:
            return
        w = [real(p) for p in e]
        for p, x in zip(e, w, strict=True):
            kept = self._saved.get(p)
            if kept is None or (kept.dtype, kept.device) != (x.dtype, x.device):  # a model may be moved or widened
                self._saved[p] = torch.empty_like(x)
        torch._foreach_copy_([self._saved[p] for p in e], w)
        self._away = list(e)
        torch._foreach_add_(w, list(e.values()))
        self.drop_gathered()
        torch.clear_autocast_cache()  # an autocast around the step must not use the weights of before

    def _return(self) -> None:
        if self._away:
            torch._foreach_copy_([real(p) for p in self._away], [self._saved[p] for p in self._away])
            self.drop_gathered()
            torch.clear_autocast_cache()
            self._away = []

    def _give_up(self, before: FlatCopy) -> None:
        """Bring weights and running statistics back to what they were before the step."""
        self._return()
        self._single = False
        self.statistics.write(before)

    def _update(
        self, g: Gradients, h: Gradients, finite: Tensor, statistics: FlatCopy, scaler: GradScaler | None
    ) -> None:
        """From the whole batch's gradients to the next weights, or to the same ones where something is not finite."""
        g, finite = self._agreed(g, h, finite)
        if scaler is not None:
            self._unscale_last(h, finite, scaler)
        used = [p for p in self._parameters() if p in h or p in g]
        w = [real(p) for p in used]
        whole_h = _filled(used, h)
        whole_g = whole_h if g is h or not self.keeps_gradient else _filled(used, g)
        memory = self._recall(used) | ({"weights": w} if self.needs_weights else {})
        if self.next_has_second_pass:
            v = self.combine(whole_g, whole_h, **memory)
            added = self.correction(whole_g, whole_h)
            learnt = self.update_state(whole_g, whole_h, **memory)
        else:
            v, added, learnt = self.combine_single(whole_h, **memory), None, {}
        if v is not whole_h:
            finite = finite & torch.isfinite(global_norm(whole_h))
        norm = global_norm(v)
        finite = finite & torch.isfinite(norm)
        if self.clip_norm is not None:
            v = scale_to_norm(v, self.clip_norm, norm)
        self._clear_gradients()
        for p, x in zip(used, v, strict=True):
            if v is not whole_h or p in h:  # where v is h, what has no h is left alone
                p.grad = like(p, x)
        self.settled = not guarded_step(self.base_optimizer, finite)
        self.drop_gathered()
        self._left = {p: Left(p, p.grad) for p in self._small() if p.grad is not None}
        if added is not None:
            torch._foreach_add_(w, self._times(used, added, lambda group: group["lr"], finite))
        self._learn(used, learnt, finite)
        if self.gradient_decides and (self._single or self.next_has_second_pass):
            self.keep_decision(finite)
        self._resting = self.statistics.keep_if(finite, otherwise=statistics)
        self.skipped = self.skipped.to(finite.device)
        self.skipped += ~finite
        self.steps += 1
        self._single = False
        torch.clear_autocast_cache()

    def _agreed(self, g: Gradients, h: Gradients, finite: Tensor) -> tuple[Gradients, Tensor]:
        """With several processes: `g` averaged as `h` is, and whether it is finite everywhere."""
        if self.parallel is None:
            return g, finite
        if g is not h and self.keeps_gradient and not self.sync_perturbation:
            g = {p: x for p, x in self._averaged(g).items() if p in h}
        return g, everywhere(finite, self.parallel.process_group)

    def _unscale_last(self, h: Gradients, finite: Tensor, scaler: GradScaler) -> None:
        """Take the loss scaling out of the last pass's gradients, by the scaler itself, which so learns of both passes.

        Raises:
            RuntimeError: it has done so already.
        """
        for p, x in h.items():
            p.grad = like(p, x)
        told = next(x for x in h.values() if x.numel())
        told.add_(torch.where(finite, 0.0, math.nan))
        try:
            scaler.unscale_(self)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error} Call scaler.update() after every step, and leave scaler.unscale_(optimizer) out: the "
                "optimizer does that itself, and clips with clip_norm="
            ) from error

    def _learn(self, parameters: list[Tensor], learnt: dict[str, Tensors], finite: Tensor) -> None:
        """Keep what the method wants to remember, where `finite` holds."""
        for name, values in learnt.items():
            old = [self.memory[p][name] for p in parameters]
            before = FlatCopy(old)
            torch._foreach_copy_(old, values)
            before.keep_if(finite, old)

    def _before(self, held: Between) -> FlatCopy:
        """The running statistics to come back to by hand, where the first pass ran before the engine was called."""
        return held.clean if self._resting is None else self._resting

    def _yes(self) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=self._parameters()[0].device)

    def _recall(self, parameters: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for p in parameters:
            if p not in self.memory:
                self.memory[p] = self.init_state(real(p))
            for name, value in self.memory[p].items():
                found.setdefault(name, []).append(value)
        return found

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _refuse_scalers_step(self) -> None:
        if hasattr(self, "grad_scale"):  # a GradScaler sets it around the steps that it calls
            for name in ("grad_scale", "found_inf"):
                delattr(self, name)
            raise RuntimeError(
                "scaler.step(optimizer) cannot take a step of several passes: call optimizer.step(closure, "
                "scaler=scaler), or first_step(scaler=scaler) and second_step(scaler=scaler), then scaler.update()"
            )

    def _small(self) -> list[Tensor]:
        """Parameters whose gradients can be kept at little cost: small ones, or else the smallest."""
        parameters = self._parameters()
        return [p for p in parameters if p.numel() <= _SMALL] or [min(parameters, key=Tensor.numel)]

    def _accumulated(self) -> Accumulated | None:
        """A gradient that came after the previous step; None where there is none, and in compiled code."""
        if torch.compiler.is_compiling():
            return None
        for p in self._small():
            if p.grad is not None and not (p in self._left and self._left[p].unchanged()):
                return Accumulated(p, p.grad, real(p.grad).any())
        return None

    def _refuse_accumulated(self, before: Accumulated | None) -> None:
        """A closure must clear what was there before it; of what was 0 it need not.

        Raises:
            ValueError: it has added to it, as in an accumulation outside the closure.
        """
        if before is None or before.parameter.grad is not before.gradient:
            return
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()  # values cannot be read then
        if not capturing and before.nonzero:
            raise ValueError(
                "the closure adds to gradients that were there before step(closure), and in the second pass they are "
                "not there: begin the closure with zero_grad(), and accumulate inside it (not by a framework's "
                "accumulate_grad_batches), or step by hand, with first_step() and second_step()"
            )

    def _be_at_rest(self, caller: str) -> None:
        if self._between is not None:
            raise RuntimeError(
                f"{caller} came between first_step() and second_step(), where the weights are perturbed: "
                "call second_step() to end the step, or restore() to give it up"
            )


def _filled(parameters: list[Tensor], gradients: Gradients) -> list[Tensor]:
    """A gradient for each parameter, 0 for those that have none."""
    return [gradients[p] if p in gradients else torch.zeros_like(real(p)) for p in parameters]


def _parts(closure: Closure | Sequence[Closure] | None, weights: Sequence[float] | None) -> list[tuple[Closure, float]]:
    if closure is None:
        raise ValueError(
            "step() needs a closure that computes loss and gradients: step(closure), with a GradScaler step(closure, "
            "scaler=scaler); or step by hand with first_step() and second_step()"
        )
    closures = [closure] if callable(closure) else list(closure)
    weights = [1 / len(closures)] * len(closures) if weights is None and closures else list(weights or ())
    fit = len(weights) == len(closures) and all(weight > 0 for weight in weights) and math.isclose(sum(weights), 1)
    if not closures or not fit:
        raise ValueError(f"{len(closures)} closures with weights {weights}: one each above 0 is needed, and a sum of 1")
    return list(zip(closures, weights, strict=True))
