"""The passes of a step: gradients at the weights, a perturbation, gradients at the perturbed weights.

Letters are those of `sharpness_aware.py`: `w`, `g`, `e`, `h`.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sam_bench.optim.accumulation import find_accumulated
from sam_bench.optim.distributed import Shards, reshard
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, add, is_sharded, real
from sam_bench.optim.method import Closure, Method
from sam_bench.optim.norms import Direction
from sam_bench.optim.perturbation import perturb, restore, scale_by_group
from sam_bench.optim.progress import Progress, SharedAttribute
from sam_bench.optim.replicas import Replicas
from sam_bench.optim.running_stats import RunningStatistics
from sam_bench.optim.scaling import scale_again, unscale


@dataclass
class BatchPart:
    """A closure that computes the gradients of a part of a batch, or of the whole of it."""

    closure: Closure
    #: The part's share of the batch, above 0 and at most 1.
    share: float
    #: The part's number, from 0 and over all processes.
    number: int
    #: True if the closure is the batch's only one.
    is_whole: bool


@dataclass
class Passes:
    """The results of the passes over a batch or a part of it."""

    #: The first pass's mean loss; what the closure returned, if it computed no gradient.
    loss: Any = 0.0
    #: What the method keeps of the gradients at `w` after a second pass; else empty.
    g: Gradients = field(default_factory=dict)
    #: Gradients of the last pass: at `w + e`, or at `w` if it was the only one. Empty if the closure computed none.
    h: Gradients = field(default_factory=dict)
    #: False if the first of two passes was not finite: a boolean scalar on the device. `_update` checks the last pass.
    finite: Any = None
    had_second_pass: bool = False

    def add(self, part: "Passes", share: float) -> None:
        """Add the results of a part of the batch times its share; empty the part, so that it holds no memory."""
        self.loss = self.loss + share * part.loss
        self.g = add(self.g, part.g, share)
        self.h = add(self.h, part.h, share)
        self.finite = part.finite if self.finite is None else self.finite & part.finite
        self.had_second_pass = part.had_second_pass
        part.g, part.h = {}, {}


class TwoPasses(Method):
    """The passes of a step, for `step(closure)` and for stepping by hand."""

    model: nn.Module | None
    batchnorm: Literal["clean", "both"]
    sync_perturbation: bool
    start: int
    method_name: str
    replicas: Replicas
    statistics: RunningStatistics
    progress: Progress

    #: Steps done so far, skipped ones included.
    steps = SharedAttribute[int]()
    #: Forward-backward passes over a whole batch so far. A pass over a part of a batch counts as that part; with
    #: `first_step` and `second_step` each pass counts as a whole one.
    passes = SharedAttribute[float]()
    #: Tensors that the method keeps from step to step, by parameter and name.
    memory = SharedAttribute[dict[Tensor, dict[str, Tensor]]]()

    @property
    def parallel(self) -> DistributedDataParallel | None:
        """Return the model if it is a `DistributedDataParallel`, else None."""
        return self.replicas.parallel

    @property
    def next_has_second_pass(self) -> bool:
        """Return True if the next step has a second pass, or may have one because its gradient decides."""
        return self.steps >= self.start and self.has_second_pass(self.steps - self.start)

    def _run_passes(self, part: BatchPart, scaler: GradScaler | None) -> Passes:
        """Run the passes of one part of a batch, and restore `w`.

        If a batch's only closure computes no gradient, the result has none.

        Raises:
            TypeError: the closure computes gradients, but returns no tensor.
            ValueError: the closure computes no gradient, or adds to gradients that were there before the step.
        """
        # 1. The first gradient: at w, or at the weights to which `ahead` moves if the method `perturbs_first`.
        may_have_second_pass = self.next_has_second_pass
        losses = self._run_first_pass(part, is_last_pass=not may_have_second_pass)
        if part.is_whole and not any(p.grad is not None for p in self._parameters()):
            self._warn_without_gradients()
            return Passes(losses)
        if not isinstance(losses, Tensor):
            raise TypeError(f"the closure returned {losses!r}: it must return the loss, a tensor")
        losses = losses.detach()
        self.passes += part.share
        g = self._take_gradients()
        if not may_have_second_pass:
            return Passes(losses.mean(), h=g, finite=self._true_on_device())

        finite = unscale(g, scaler)
        if not self._takes_second_pass(g):
            scale_again(g, scaler)
            h = g if self.sync_perturbation else self.replicas.average(g, self._parameters())
            return Passes(losses.mean(), h=h, finite=finite)

        # 2. The gradient at w + e.
        e = self._compute_perturbation(g, finite)
        kept_g = self._kept_of(g)
        g.clear()  # the second pass needs the memory
        h = self._run_second_pass(part, e, losses)
        return Passes(losses.mean(), kept_g, h, finite, had_second_pass=True)

    def _run_first_pass(self, part: BatchPart, is_last_pass: bool) -> Any:
        """Run the first pass of one part of a batch, restore `w`, and return what the closure returned.

        Raises:
            ValueError: the closure adds to gradients that were there before the step.
        """
        try:
            if self.perturbs_first and self.steps >= self.start:
                self._perturb(self._compute_perturbation_ahead(part.number))

            # One gradient from before the step stays in place, to see whether the closure clears it or adds to it.
            accumulated = find_accumulated(self._parameters(), self.progress.leftovers)
            self._clear_gradients()
            if accumulated is not None:
                accumulated.put_back()

            # Processes average the gradients of a batch's last pass; those of several parts are averaged at the end.
            with self.replicas.sync_if((part.is_whole and is_last_pass) or self.sync_perturbation), torch.enable_grad():
                losses = part.closure()
            if accumulated is not None:
                accumulated.refuse_if_added_to()
        finally:
            self._restore_weights()
        return losses

    def _run_second_pass(self, part: BatchPart, e: Gradients, losses: Tensor) -> Gradients:
        """Run the second pass of one part of a batch, at `w + e`, and restore `w`; return the gradients `h`.

        Args:
            e: the perturbation, which is emptied.
            losses: what the closure returned in the first pass.

        Raises:
            ValueError: the closure computes no gradient.
        """
        clean_statistics = self.statistics.read()
        try:
            self._perturb(e)
            e.clear()  # the second pass needs the memory
            with self.replicas.sync_if(part.is_whole), torch.enable_grad():
                self.passes += part.share * self.second_pass(part.closure, losses)
        finally:
            self._restore_weights()
        if self.batchnorm == "clean":
            self.statistics.write(clean_statistics)
        return self._take_gradients()

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

    def drop_gathered(self) -> None:
        """Drop the whole weights that FSDP2 modules have gathered, if the parameters are sharded."""
        if self.model is not None and is_sharded(self._parameters()[0]):
            reshard(self.model)

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

    def _warn_without_gradients(self) -> None:
        """Warn, once, that a closure computed no gradient: on purpose, or because `backward()` was forgotten."""
        if not self.progress.warned_without_gradients and not torch.compiler.is_compiling():
            self.progress.warned_without_gradients = True
            warnings.warn(
                "The closure left no parameter with a gradient, so step() did nothing. If it should have computed one, "
                "call backward() on the loss in it.",
                stacklevel=6,  # torch wraps step() twice
            )
