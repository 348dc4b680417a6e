"""One training step on one batch, and the running totals of an epoch, which stay on the device."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sam_bench.hardware import Hardware
from sam_bench.optim.engine import SharpnessAware
from sam_bench.processes import Processes
from sam_bench.training.loss import cross_entropy


class EagerStep:
    """Forward, loss and backward as often as the optimizer asks for; loss and errors of the first pass add up.

    Args:
        model: what is trained, or its `DistributedDataParallel`.
        label_smoothing: as torch's cross-entropy takes it.
        m: examples that share a perturbation; None for all.
        micro_batch_size: examples in a forward pass; None for all.
        scaler: scales the loss, for gradients in half precision.
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
    ):
        self.model, self.optimizer, self.hardware, self.processes = model, optimizer, hardware, processes
        self.label_smoothing, self.m, self.micro_batch_size, self.scaler = label_smoothing, m, micro_batch_size, scaler
        self.loss = torch.zeros((), dtype=torch.float64, device=hardware.device)
        self.summed = torch.zeros((), dtype=torch.int64, device=hardware.device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=hardware.device)
        self.images = 0

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        count = len(labels)
        size = self.m or count
        parts = [_Part(self, x, y) for x, y in zip(images.split(size), labels.split(size), strict=True)]
        weights = [len(part.labels) / count for part in parts]
        loss = self.optimizer.step(parts[0] if self.m is None else parts, weights, self.scaler)
        if self.scaler is not None:
            self.scaler.update()
        finite = torch.isfinite(loss)  # a loss that is not would hide all others of the epoch
        self.loss += torch.where(finite, loss, 0.0) * count
        self.summed += finite * count
        for part in parts:
            self.wrong += part.wrong
        self.images += count

    def state_dict(self) -> dict[str, Any]:
        """The totals since the last reading, of every process. All of them call this."""
        totals = torch.stack([self.loss, self.summed.double(), self.wrong.double()]).cpu()
        return {"totals": self.processes.gather(totals), "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"]
        for total, value in zip(
            (self.loss, self.summed, self.wrong), state["totals"][self.processes.rank], strict=True
        ):
            total.copy_(value)

    def not_yet_averaged(self, more: bool) -> contextlib.AbstractContextManager:
        """Where more gradients are added before several processes average them: in one go, after the last."""
        return self.model.no_sync() if more and self.processes.size > 1 else contextlib.nullcontext()

    def read(self) -> tuple[float, float]:
        """Mean loss over the batches in which it is finite, and error in percent, since the last reading.

        Of all processes together. Waits for the device.
        """
        self.processes.add(self.loss, self.summed, self.wrong)
        summed, images = self.summed.item(), self.images * self.processes.size
        result = self.loss.item() / summed if summed else math.nan, 100 * self.wrong.item() / images
        for total in (self.loss, self.summed, self.wrong):
            total.zero_()
        self.images = 0
        return result


class _Part:
    """The closure of a batch, or of the part of it that has a perturbation of its own."""

    def __init__(self, step: EagerStep, images: Tensor, labels: Tensor):
        self.step, self.images, self.labels = step, images, labels
        self.wrong: Tensor | None = None
        """Of the first pass."""

    def __call__(self, examples: Tensor | slice = slice(None)) -> Tensor:
        images, labels = self.images[examples], self.labels[examples]
        step, size = self.step, self.step.micro_batch_size or len(labels)
        step.optimizer.zero_grad()
        losses, wrong = [], []
        each = "none" if step.optimizer.selects_examples else "mean"
        cut = list(zip(images.split(size), labels.split(size), strict=True))
        for number, (x, y) in enumerate(cut, start=1):
            with step.not_yet_averaged(number < len(cut)):
                with step.hardware.autocast():
                    logits = step.model(x)
                loss = cross_entropy(logits, y, step.label_smoothing, each)
                if loss.requires_grad:
                    share = loss.mean() * (len(y) / len(labels))
                    (share if step.scaler is None else step.scaler.scale(share)).backward()
            losses.append(loss.detach() if each == "none" else loss.detach() * (len(y) / len(labels)))
            wrong.append((logits.detach().argmax(1) != y).sum())
        if self.wrong is None:
            self.wrong = torch.stack(wrong).sum()
        return torch.cat(losses) if step.optimizer.selects_examples else torch.stack(losses).sum()
