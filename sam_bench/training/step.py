"""One training step on one batch, and the running totals of an epoch, which stay on the device."""

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
from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.progress import Progress
from sam_bench.runtime.device import Hardware, is_out_of_memory
from sam_bench.runtime.distributed import Processes
from sam_bench.training.cuda_graph import CudaGraphs
from sam_bench.training.loss import batch_loss
from sam_bench.training.missed_labels import MissedLabels

T = TypeVar("T")

MESSAGES = logging.getLogger("sam_bench")

WARMUP_STEPS = 3
"""Steps of each kind that are taken before one is captured: libraries set themselves up in the first ones."""


class Step:
    """Forward, loss and backward as often as the optimizer asks for; loss and errors of the first pass add up.

    Args:
        model: what is trained, or its `DistributedDataParallel`.
        label_smoothing: as torch's cross-entropy takes it.
        m: examples that share a perturbation; None for all.
        micro_batch_size: examples in a forward pass; None for all.
        sums_loss: whether the loss that is minimised is summed over the batch, of all processes, instead of averaged.
        scaler: scales the loss, for gradients in half precision.
        compiled: whether forward pass and loss, and so their gradients, are compiled.
        rates_on_device: whether learning rate and radius are scalars on the device rather than numbers; a captured step
            needs that, and the base optimizer must take it.
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
        each = "none" if optimizer.selects_examples else "mean"
        self.compiled = compiled
        self.plain_forward = _forward_and_loss(model, hardware, label_smoothing, each)
        if compiled:
            torch.compiler.reset()  # what earlier runs of this program compiled counts against a limit
        self.forward = compile_for(self.plain_forward) if compiled else self.plain_forward
        self.rates_on_device = rates_on_device
        self.rates: dict[tuple[str, float], Tensor] = {}
        self.loss = torch.zeros((), dtype=torch.float64, device=hardware.device)
        self.summed = torch.zeros((), dtype=torch.int64, device=hardware.device)
        self.missed = MissedLabels(hardware.device)
        self.images = 0

    @property
    def engine(self) -> str:
        """How steps are taken now."""
        return "compile" if self.compiled else "eager"

    def set_rates(self, lr: float, rho: float | None) -> None:
        """Learning rate and radius of the next steps; rho is None for a method without a radius."""
        for group in self.optimizer.param_groups:
            factor = group.get("lr_factor", 1.0)
            group["lr"] = self._rate("lr", factor, factor * lr)
            if rho is not None:
                group["rho"] = self._rate("rho", 1.0, rho)

    def _rate(self, name: str, factor: float, value: float) -> float | Tensor:
        """Return a group's rate, where a captured step reads it if it is on the device: one scalar for each factor."""
        if not self.rates_on_device:
            return value
        place = self.rates.setdefault((name, factor), torch.zeros((), device=self.hardware.device))
        return place.fill_(value)

    def __call__(self, batch: Batch) -> None:
        """Take a step; where compiled code fails, take it again without, from now on, and warn."""
        before = self._host_state()
        parts = self._parts(batch)
        try:
            loss = self.optimizer.step(*self._arguments(parts))
        except Exception as error:
            self.give_up_compiling(error)
            self._set_host_state(before)
        else:
            self._add_up(loss, parts)
            return
        # Only here is the error gone, and with it what the failed step held of the memory.
        parts = self._parts(batch)
        self._add_up(self.optimizer.step(*self._arguments(parts)), parts)

    def give_up_compiling(self, error: Exception) -> None:
        """Do without compiled code from now on, because of an error in it.

        Raises:
            Exception: the error itself, where nothing is compiled, or the memory was not enough.
        """
        if not self.compiled or is_out_of_memory(error):
            raise error
        self.compiled = False
        self.forward = self.plain_forward
        MESSAGES.warning(f"torch.compile failed, so the run goes on without it, slower: {first_line(error)}")

    def recapture(self) -> None:
        """Forget what was captured of earlier steps; nothing was here."""

    def remember(self, batch: Batch) -> None:
        """Tell a method that repeats batches which one was that of the step before."""
        self.optimizer.remember(_Part(self, batch, self._loss_factor(batch)))

    def _parts(self, batch: Batch) -> "list[_Part]":
        """Return the closures of a batch, one for each m examples."""
        return [_Part(self, part, self._loss_factor(batch)) for part in batch.split(self.m or len(batch))]

    def _loss_factor(self, batch: Batch) -> int:
        """Return what makes a mean over a batch, or over a part of it, the loss that is minimised.

        Gradients of parts are averaged by their size, and those of processes too, so all parts have the same factor.
        """
        return len(batch) * self.processes.world_size if self.sums_loss else 1

    def _arguments(self, parts: "list[_Part]") -> tuple[Any, list[float], GradScaler | None]:
        """Return what the optimizer's step takes: closures, their shares of the batch, the loss scaling."""
        count = sum(len(part.batch) for part in parts)
        weights = [len(part.batch) / count for part in parts]
        return parts[0] if self.m is None else parts, weights, self.scaler

    def _add_up(self, loss: Tensor, parts: "list[_Part]") -> None:
        """Add a step's loss and errors to the totals."""
        count = sum(len(part.batch) for part in parts)
        if self.scaler is not None:
            self.scaler.update()
        finite = torch.isfinite(loss)  # a loss that is not would hide all others of the epoch
        self.loss += torch.where(finite, loss, 0.0) * count
        self.summed += finite * count
        for part in parts:
            self.missed.update(part.predicted, part.batch.labels, part.batch.true_labels)
        self.images += count

    def _host_state(self) -> tuple[Progress, int]:
        """What the host knows of the steps until now."""
        return self.optimizer.host_state(), self.images

    def _set_host_state(self, state: tuple[Progress, int]) -> None:
        """Forget a step that was not taken."""
        progress, self.images = state
        self.optimizer.set_host_state(progress)

    def state_dict(self) -> dict[str, Any]:
        """The totals since the last reading, of every process. All of them call this."""
        totals = torch.cat([total.double().reshape(-1) for total in self._totals()]).cpu()
        return {"totals": self.processes.gather(totals), "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"]
        values = iter(state["totals"][self.processes.rank])  # of earlier code without what label noise needs, 0
        for total in self._totals():
            for place in total.view(-1):
                place.copy_(next(values, torch.zeros(())))

    def not_yet_averaged(self, more: bool) -> contextlib.AbstractContextManager:
        """Where more gradients are added before several processes average them: in one go, after the last."""
        return self.model.no_sync() if more and self.processes.world_size > 1 else contextlib.nullcontext()

    def read(self) -> dict[str, float]:
        """Return the mean loss over the batches in which it is finite, `train_loss`, and the errors of `MissedLabels`.

        Since the last reading, and of all processes together. Waits for the device.
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
        return self.loss, self.summed, self.missed.counts


class CapturedStep(Step):
    """A step that is captured whole in a CUDA graph, and replayed: both passes, the base optimizer, all the totals.

    There is a graph for each size of a batch and each kind of step that the method has. The first steps of each are
    taken as `Step` takes them; a replay launches the same kernels, so it gives the same bits. Where a step cannot
    be captured, steps go on to be taken one by one, with a warning.

    Args:
        capturer: what captures; by default `CudaGraphs`.

    The other arguments are those of `Step`; learning rate and radius are always on the device. One process only.
    """

    def __init__(self, *arguments: Any, capturer: CudaGraphs | None = None, **options: Any):
        super().__init__(*arguments, **options, rates_on_device=True)
        self.capturer = CudaGraphs(self.hardware.device) if capturer is None else capturer
        self.warmed_up: Counter[tuple[int, bool]] = Counter()
        self.captured: dict[tuple[int, bool], _Captured] = {}
        self.captures = True

    @property
    def engine(self) -> str:
        return "graph" if self.captures else super().engine

    def __call__(self, batch: Batch) -> None:
        kind = len(batch), self.optimizer.next_has_second_pass
        if (captured := self.captured.get(kind)) is not None:
            for own, tensor in zip(captured.batch.tensors(), batch.tensors(), strict=True):
                own.copy_(tensor)
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
        own = batch.each(torch.clone)
        before = self._host_state()
        passes = self.optimizer.passes

        def work() -> None:
            parts = self._parts(own)
            self._add_up(self.optimizer.step(*self._arguments(parts)), parts)

        try:
            replay = self.capturer.capture(work)
        except Exception as error:
            self._set_host_state(before)
            self.captures = False
            self.captured = {}
            if self.scaler is not None:
                self.scaler.update(self.scaler.get_scale())  # lets it forget the step that was not taken
            reason = first_line(error)
            MESSAGES.warning(f"a step could not be captured, so steps are taken one by one, slower: {reason}")
        else:
            self.captured[kind] = _Captured(replay, own, self.optimizer.passes - passes)
            return
        torch.cuda.empty_cache()  # only here is the error gone, and with it what the capture held of the memory
        super().__call__(batch)

    def give_up_compiling(self, error: Exception) -> None:
        super().give_up_compiling(error)
        self._forget()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._forget()

    def _forget(self) -> None:
        """Capture anew: what was captured is of other code, or of another state."""
        self.captured = {}
        self.warmed_up = Counter()

    def recapture(self) -> None:
        self._forget()


@dataclass(frozen=True)
class _Captured:
    """A captured step, and where it reads its batch."""

    replay: Callable[[], None]
    batch: Batch
    passes: float


class _Part:
    """The closure of a batch, or of the part of it that has a perturbation of its own."""

    def __init__(self, step: Step, batch: Batch, loss_factor: int):
        self.step = step
        self.batch = batch
        self.loss_factor = loss_factor
        self.predicted: Tensor | None = None
        """The classes that the first pass predicts."""

    def __call__(self, examples: Tensor | slice = slice(None)) -> Tensor:
        batch = self.batch.take(examples)
        step = self.step
        size = step.micro_batch_size or len(batch)
        step.optimizer.zero_grad()
        losses = []
        predicted = []
        cut = batch.split(size)
        for number, micro_batch in enumerate(cut, start=1):
            weight = len(micro_batch) / len(batch)
            with step.not_yet_averaged(number < len(cut)):
                loss, classes = step.forward(micro_batch)
                if loss.requires_grad:
                    share = loss.mean() * (weight * self.loss_factor)
                    (share if step.scaler is None else step.scaler.scale(share)).backward()
            losses.append(loss.detach() if loss.dim() else loss.detach() * weight)
            predicted.append(classes)
        if self.predicted is None:
            self.predicted = torch.cat(predicted)
        return torch.cat(losses) if step.optimizer.selects_examples else torch.stack(losses).sum()


def _forward_and_loss(
    model: nn.Module, hardware: Hardware, label_smoothing: float, each: str
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """A forward pass: from a batch to the loss, reduced so, and the predicted classes."""

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        with hardware.autocast():
            logits = model(batch.images)
        loss = batch_loss(logits, batch, label_smoothing, each)
        return loss, logits.detach().argmax(1)

    return forward


def compile_for(work: Callable[..., T]) -> Callable[..., T]:
    """Compiled for each size of a batch by itself; a size that came later would otherwise change the first one's."""
    return torch.compile(work, dynamic=False)
