"""The step that every method shares: perturb, second pass, restore, update.

`SharpnessAware` takes a step with a closure. It derives from classes that each do one thing: `ByHand` (`by_hand.py`)
takes a step without a closure, `Checkpointed` (`checkpoint.py`) saves and loads, `Update` (`update.py`) makes new
weights of both gradients, `TwoPasses` (`passes.py`) computes these, and `Method` (`method.py`) has the hooks in which
methods differ.

Letters are those of the papers: `w` are the weights, `g = ∇L(w)` the gradient of the first pass, `e` the perturbation,
`h = ∇L(w + e)` the gradient of the second pass, `v` the direction given to the base optimizer, and `rho` (ρ) the
radius of the perturbation.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from sam_bench.optim.base import base_of
from sam_bench.optim.by_hand import ByHand, uncompiled_before_torch_2_12
from sam_bench.optim.method import Closure
from sam_bench.optim.norms import over
from sam_bench.optim.options import Option
from sam_bench.optim.passes import BatchPart, Passes
from sam_bench.optim.progress import Progress
from sam_bench.optim.replicas import Replicas
from sam_bench.optim.running_stats import RunningStatistics
from sam_bench.optim.scaling import refuse_scalers_step

_RHO = Option("rho", float, "the radius", ge=0)
_CLIP_NORM = Option("clip_norm", float, "greatest norm of the direction", gt=0, optional=True)
_START = Option("start", int, "the first step that perturbs", ge=0)
_SYNC_PERTURBATION = Option("sync_perturbation", bool, "whether processes perturb along the averaged gradient")


class SharpnessAware(ByHand):
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

    def over_processes(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over all processes, the same in each of them."""
        return self.replicas.mean(value)

    @overload  # type: ignore[override]
    def step(
        self,
        closure: Closure | Sequence[Closure],
        weights: Sequence[float] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @uncompiled_before_torch_2_12
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

        parts = self._split_batch(closure, weights)
        statistics_before = self.statistics.read()
        batch = Passes()
        try:
            with over(self._find_shards()):
                for part in parts:
                    passes = self._run_passes(part, scaler)
                    if not passes.h:
                        return cast(Tensor | None, passes.loss)  # there is no step, as with torch's optimizers
                    batch.add(passes, part.share)

                # The passes of several closures leave out DDP's averaging, so it is done here, once.
                if not callable(closure):
                    batch.h = self.replicas.average(batch.h, self._parameters())
                self._update(batch, statistics_before, scaler)
        except BaseException:
            self._undo_step(statistics_before)
            self._clear_gradients()  # they belong to an unfinished step
            raise
        return cast(Tensor, batch.loss)

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

    def _split_batch(
        self, closure: Closure | Sequence[Closure] | None, weights: Sequence[float] | None
    ) -> list[BatchPart]:
        """Return the parts of a batch, one per closure; by default their shares are equal.

        Raises:
            ValueError: there is no closure, the weights do not fit the closures, or several closures are given, and the
                method, or sync_perturbation, has one perturbation for the whole batch.
        """
        if closure is None:
            raise ValueError(
                "step() needs a closure that computes loss and gradients: step(closure), with a GradScaler "
                "step(closure, scaler=scaler); or step by hand with first_step() and second_step()"
            )

        closures = [closure] if callable(closure) else list(closure)
        shares = [1 / len(closures)] * len(closures) if weights is None and closures else list(weights or ())
        fit = len(shares) == len(closures) and all(share > 0 for share in shares) and math.isclose(sum(shares), 1)
        if not closures or not fit:
            raise ValueError(
                f"{len(closures)} closures with weights {shares}: give each a weight above 0, with a sum of 1"
            )

        if callable(closure):
            return [BatchPart(closure, shares[0], self._first_part_number(1), is_whole=True)]
        self._refuse_several_closures()
        numbered = enumerate(zip(closures, shares, strict=True), start=self._first_part_number(len(closures)))
        return [BatchPart(part, share, number, is_whole=False) for number, (part, share) in numbered]

    def _first_part_number(self, count: int) -> int:
        """Return the number of this process's first part of a batch, if each process has `count` parts."""
        return 0 if self.sync_perturbation else self.replicas.rank * count

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
