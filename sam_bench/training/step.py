"""A training step on one batch, and the totals of loss and errors over an epoch, which stay on the device."""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sam_bench.data.batches import Batch
from sam_bench.errors import first_line
from sam_bench.optim.progress import Progress
from sam_bench.optim.sharpness_aware import SharpnessAware
from sam_bench.runtime.device import Hardware, is_out_of_memory
from sam_bench.runtime.distributed import Processes
from sam_bench.training.cuda_graph import CudaGraphs
from sam_bench.training.loss import batch_loss
from sam_bench.training.missed_labels import MissedLabels

T = TypeVar("T")

MESSAGES = logging.getLogger("sam_bench")

#: Steps of each kind that are taken before one is captured, because libraries initialise themselves in the first ones.
WARMUP_STEPS = 3


class Step:
    """A training step: as many forward and backward passes as the optimizer asks for.

    Loss and errors of each step's first pass are added to the epoch's totals.

    Args:
        model: the model, or its `DistributedDataParallel`.
        label_smoothing: as in torch's cross-entropy.
        m: number of examples that share a perturbation; None for all.
        micro_batch_size: number of examples in a forward pass; None for all.
        scaler: scales the loss, for gradients in half precision.
        compiled: True to compile the forward pass and the loss, and with them their gradients.
        rates_on_device: True to keep learning rate and radius as scalars on the device instead of Python numbers. A
            captured step needs this, and the base optimizer must support it.
        sums_loss: True to minimise the sum of the loss over the batch, of all processes, instead of the mean.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: SharpnessAware,
        hardware: Hardware,
        processes: Processes,
        label_smoothing: float,
        m: int | None = None,
        micro_batch_size: int | None = None,
        scaler: GradScaler | None = None,
        *,
        compiled: bool = False,
        rates_on_device: bool = False,
        sums_loss: bool = False,
    ):
        self.model = model
        self.optimizer = optimizer
        self.hardware = hardware
        self.processes = processes
        self.m = m
        self.micro_batch_size = micro_batch_size
        self.scaler = scaler
        self.sums_loss = sums_loss

        reduction = "none" if optimizer.selects_examples else "mean"
        self.compiled = compiled
        self.plain_forward = _forward_and_loss(model, hardware, label_smoothing, reduction)
        if compiled:
            torch.compiler.reset()  # compiled code of earlier runs in this process counts against a limit of torch
        self.forward = compile_for(self.plain_forward) if compiled else self.plain_forward

        self.rates_on_device = rates_on_device
        #: The scalars on the device, by a rate's name and its factor.
        self.rates: dict[tuple[str, float], Tensor] = {}

        #: The loss, summed over the images of all steps whose loss is finite, and the number of these images.
        self.loss = torch.zeros((), dtype=torch.float64, device=hardware.device)
        self.summed = torch.zeros((), dtype=torch.int64, device=hardware.device)
        self.missed = MissedLabels(hardware.device)
        self.images = 0

    @property
    def engine(self) -> str:
        """Return how steps are currently taken: "eager" or "compile"."""
        return "compile" if self.compiled else "eager"

    def set_rates(self, lr: float, rho: float | None) -> None:
        """Set learning rate and radius of the next steps; rho is None for a method without a radius."""
        for group in self.optimizer.param_groups:
            factor = group.get("lr_factor", 1.0)
            group["lr"] = self._rate("lr", factor, factor * lr)
            if rho is not None:
                group["rho"] = self._rate("rho", 1.0, rho)

    def _rate(self, name: str, factor: float, value: float) -> float | Tensor:
        """Return a rate for a group: a Python number, or a scalar on the device, the same one in every step."""
        if not self.rates_on_device:
            return value

        # Groups with different factors need different scalars; each is filled in place, where a captured step reads it.
        scalar = self.rates.setdefault((name, factor), torch.zeros((), device=self.hardware.device))
        return scalar.fill_(value)

    def __call__(self, batch: Batch) -> None:
        """Take a step. If compiled code fails, warn, and take this step and all later ones without it."""
        before = self._host_state()
        closures = self._closures(batch)
        try:
            loss = self.optimizer.step(*self._step_arguments(closures))
        except Exception as error:
            self.give_up_compiling(error)
            self._set_host_state(before)
        else:
            self._add_to_totals(loss, closures)
            return

        # Repeated only here, outside the except clause: until then the error keeps the failed step's memory in use.
        closures = self._closures(batch)
        self._add_to_totals(self.optimizer.step(*self._step_arguments(closures)), closures)

    def give_up_compiling(self, error: Exception) -> None:
        """Stop using compiled code, because of an error in it, and warn.

        Raises:
            Exception: the error itself, if nothing is compiled or the error is a lack of memory.
        """
        if not self.compiled or is_out_of_memory(error):
            raise error
        self.compiled = False
        self.forward = self.plain_forward
        MESSAGES.warning(f"torch.compile failed, so the run continues without it, slower: {first_line(error)}")

    def recapture(self) -> None:
        """Drop all captured steps, so that they are captured anew; an uncaptured step has none."""

    def remember(self, batch: Batch) -> None:
        """Tell a method that repeats batches that this was the previous step's batch."""
        self.optimizer.remember(_BatchClosure(self, batch, self._loss_factor(batch)))

    def _closures(self, batch: Batch) -> "list[_BatchClosure]":
        """Return the closures of a batch, one for each m examples."""
        return [_BatchClosure(self, part, self._loss_factor(batch)) for part in batch.split(self.m or len(batch))]

    def _loss_factor(self, batch: Batch) -> int:
        """Return the factor that turns a mean over a batch, or over a part of it, into the loss that is minimised.

        Gradients are averaged over parts, by their size, and over processes. So all parts have the same factor.
        """
        return len(batch) * self.processes.world_size if self.sums_loss else 1

    def _step_arguments(self, closures: "list[_BatchClosure]") -> tuple[Any, list[float], GradScaler | None]:
        """Return the arguments of the optimizer's step: closures, their shares of the batch, the loss's scaler."""
        count = sum(len(closure.batch) for closure in closures)
        weights = [len(closure.batch) / count for closure in closures]
        return closures[0] if self.m is None else closures, weights, self.scaler

    def _add_to_totals(self, loss: Tensor, closures: "list[_BatchClosure]") -> None:
        """Add a step's loss and errors to the totals, and update the loss's scaler."""
        count = sum(len(closure.batch) for closure in closures)
        if self.scaler is not None:
            self.scaler.update()

        # A single NaN or infinite loss would make the whole epoch's sum useless.
        finite = torch.isfinite(loss)
        self.loss += torch.where(finite, loss, 0.0) * count
        self.summed += finite * count
        for closure in closures:
            self.missed.update(closure.predicted, closure.batch.labels, closure.batch.true_labels)
        self.images += count

    def _host_state(self) -> tuple[Progress, int]:
        """Return the host's counters of steps and images, for `_set_host_state`."""
        return self.optimizer.host_state(), self.images

    def _set_host_state(self, state: tuple[Progress, int]) -> None:
        """Restore the host's counters from before a step that failed."""
        progress, self.images = state
        self.optimizer.set_host_state(progress)

    def state_dict(self) -> dict[str, Any]:
        """Return the totals of every process since the last `read`. All processes call this."""
        totals = torch.cat([total.double().reshape(-1) for total in self._totals()]).cpu()
        return {"totals": self.processes.gather(totals), "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the totals that `state_dict` returned."""
        self.images = state["images"]

        # Checkpoints of earlier code end before the counts for label noise; the missing values are 0.
        values = iter(state["totals"][self.processes.rank])
        for total in self._totals():
            for element in total.view(-1):
                element.copy_(next(values, torch.zeros(())))

    def not_yet_averaged(self, more: bool) -> contextlib.AbstractContextManager:
        """Return a context for one backward pass, in which processes do not average gradients if `more` follow.

        They average only once, after the last backward pass.
        """
        return self.model.no_sync() if more and self.processes.world_size > 1 else contextlib.nullcontext()

    def read(self) -> dict[str, float]:
        """Return the totals since the last `read`, of all processes together, and reset them. Waits for the device.

        `train_loss` is the mean loss over the batches in which it is finite; the errors are those of `MissedLabels`.
        """
        self.processes.add(*self._totals())
        summed = self.summed.item()
        loss = self.loss.item() / summed if summed else math.nan
        result = {"train_loss": loss, **self.missed.errors(self.images * self.processes.world_size)}

        for total in self._totals():
            total.zero_()
        self.images = 0
        return result

    def _totals(self) -> tuple[Tensor, ...]:
        """Return the tensors with the totals."""
        return self.loss, self.summed, self.missed.counts


class CapturedStep(Step):
    """A whole step in a CUDA graph that is captured once and replayed: both passes, base optimizer and totals.

    There is a graph for each batch size and for each kind of step, with or without a second pass. The first steps of
    each are taken as in `Step`. A replay launches the same kernels, so it gives the same bits. If a step cannot be
    captured, this warns, and takes all further steps as in `Step`.

    Args:
        capturer: captures the steps; by default a `CudaGraphs`.

    The other arguments are those of `Step`; learning rate and radius are always on the device. For one process only.
    """

    def __init__(self, *arguments: Any, capturer: CudaGraphs | None = None, **options: Any):
        super().__init__(*arguments, **options, rates_on_device=True)
        self.capturer = CudaGraphs(self.hardware.device) if capturer is None else capturer
        #: Steps taken so far, and captured steps, by kind: the batch size, and True for a step with a second pass.
        self.warmed_up: Counter[tuple[int, bool]] = Counter()
        self.captured: dict[tuple[int, bool], _CapturedGraph] = {}
        #: False once a capture has failed.
        self.captures = True

    @property
    def engine(self) -> str:
        """Return how steps are currently taken: "graph", or as in `Step` after a failed capture."""
        return "graph" if self.captures else super().engine

    def __call__(self, batch: Batch) -> None:
        """Take a step: by a replay if its kind is captured, else by capturing it, or as in `Step`."""
        kind = len(batch), self.optimizer.next_has_second_pass

        if (captured := self.captured.get(kind)) is not None:
            for captured_tensor, tensor in zip(captured.batch.tensors(), batch.tensors(), strict=True):
                captured_tensor.copy_(tensor)
            captured.replay()
            self.optimizer.count_replay(captured.passes)
            self.images += len(batch)
        elif self.captures and self.warmed_up[kind] >= WARMUP_STEPS and self.optimizer.settled:
            self._capture(kind, batch)
        else:
            self.warmed_up[kind] += 1
            with self.capturer.warmup() if self.captures else contextlib.nullcontext():
                super().__call__(batch)

    def _capture(self, kind: tuple[int, bool], batch: Batch) -> None:
        """Take a step while capturing it; if that fails, warn, and take it as in `Step`."""
        captured_batch = batch.each(torch.clone)
        before = self._host_state()
        passes = self.optimizer.passes

        def work() -> None:
            closures = self._closures(captured_batch)
            self._add_to_totals(self.optimizer.step(*self._step_arguments(closures)), closures)

        try:
            replay = self.capturer.capture(work)
        except Exception as error:
            self._set_host_state(before)
            self.captures = False
            self.captured = {}
            if self.scaler is not None:
                self.scaler.update(self.scaler.get_scale())  # resets its state of the step that was not taken
            reason = first_line(error)
            MESSAGES.warning(f"a step could not be captured, so steps are taken one by one, slower: {reason}")
        else:
            self.captured[kind] = _CapturedGraph(replay, captured_batch, self.optimizer.passes - passes)
            return

        # Only here, outside the except clause: until then the error keeps the capture's memory in use.
        torch.cuda.empty_cache()
        super().__call__(batch)

    def give_up_compiling(self, error: Exception) -> None:
        """Stop using compiled code, as in `Step`, and drop the steps that were captured with it."""
        super().give_up_compiling(error)
        self._drop_captures()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the totals, and drop the captured steps, which are of another state."""
        super().load_state_dict(state)
        self._drop_captures()

    def _drop_captures(self) -> None:
        """Drop all captured steps, and warm up again before the next capture."""
        self.captured = {}
        self.warmed_up = Counter()

    def recapture(self) -> None:
        """Drop all captured steps, so that they are captured anew."""
        self._drop_captures()


@dataclass(frozen=True)
class _CapturedGraph:
    """A captured step."""

    replay: Callable[[], None]
    #: The batch that a replay reads: copy the next batch into its tensors first.
    batch: Batch
    #: Passes of one step.
    passes: float


class _BatchClosure:
    """The closure of a batch, or of a part of a batch that has its own perturbation."""

    def __init__(self, step: Step, batch: Batch, loss_factor: int):
        self.step = step
        self.batch = batch
        self.loss_factor = loss_factor
        #: The classes that the first pass predicts.
        self.predicted: Tensor | None = None

    def __call__(self, examples: Tensor | slice = slice(None)) -> Tensor:
        """Run forward and backward on some of the examples, by default all.

        Returns:
            The mean loss; for an optimizer that selects examples, the loss of each.
        """
        batch = self.batch.take(examples)
        step = self.step
        size = step.micro_batch_size or len(batch)
        step.optimizer.zero_grad()

        losses = []
        predicted = []
        micro_batches = batch.split(size)
        for number, micro_batch in enumerate(micro_batches, start=1):
            weight = len(micro_batch) / len(batch)
            with step.not_yet_averaged(number < len(micro_batches)):
                loss, classes = step.forward(micro_batch)
                if loss.requires_grad:
                    part = loss.mean() * (weight * self.loss_factor)
                    (part if step.scaler is None else step.scaler.scale(part)).backward()
            losses.append(loss.detach() if loss.dim() else loss.detach() * weight)
            predicted.append(classes)

        if self.predicted is None:
            self.predicted = torch.cat(predicted)
        return torch.cat(losses) if step.optimizer.selects_examples else torch.stack(losses).sum()


def _forward_and_loss(
    model: nn.Module, hardware: Hardware, label_smoothing: float, reduction: str
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Return a function that runs a forward pass on a batch and returns the loss and the predicted classes.

    Args:
        reduction: of the loss, "mean" or "none".
    """

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        with hardware.autocast():
            logits = model(batch.images)
        loss = batch_loss(logits, batch, label_smoothing, reduction)
        return loss, logits.detach().argmax(1)

    return forward


def compile_for(work: Callable[..., T]) -> Callable[..., T]:
    """Compile a function, separately for each batch size.

    With dynamic shapes, the code that runs for one size would depend on which sizes came later.
    """
    return torch.compile(work, dynamic=False)
