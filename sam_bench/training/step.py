"""One training step on one batch, and the running totals of an epoch, which stay on the device."""

import math

import torch
from torch import Tensor, nn

from sam_bench.hardware import Hardware
from sam_bench.optim.engine import SharpnessAware
from sam_bench.training.loss import cross_entropy


class EagerStep:
    """Forward, loss and backward as often as the optimizer asks for; loss and errors of the unperturbed pass add up.

    Args:
        label_smoothing: as torch's cross-entropy takes it.
    """

    def __init__(self, model: nn.Module, optimizer: SharpnessAware, hardware: Hardware, label_smoothing: float):
        self.model, self.optimizer, self.hardware = model, optimizer, hardware
        self.label_smoothing = label_smoothing
        self.loss = torch.zeros((), dtype=torch.float64, device=hardware.device)
        self.summed = torch.zeros((), dtype=torch.int64, device=hardware.device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=hardware.device)
        self.images = 0

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        outputs = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with self.hardware.autocast():
                logits = self.model(images)
            loss = cross_entropy(logits, labels, self.label_smoothing)
            loss.backward()
            outputs.append(logits.detach())
            return loss

        loss = self.optimizer.step(closure)
        finite = torch.isfinite(loss)  # a loss that is not would hide all others of the epoch
        self.loss += torch.where(finite, loss, 0.0) * len(labels)
        self.summed += finite * len(labels)
        self.wrong += (outputs[0].argmax(1) != labels).sum()
        self.images += len(labels)

    def read(self) -> tuple[float, float]:
        """Mean loss over the batches in which it is finite, and error in percent, since the last reading.

        Waits for the device.
        """
        summed = self.summed.item()
        result = self.loss.item() / summed if summed else math.nan, 100 * self.wrong.item() / self.images
        for total in (self.loss, self.summed, self.wrong):
            total.zero_()
        self.images = 0
        return result
