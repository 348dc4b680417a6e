"""Evaluation of a network on a set of images."""

import torch
from torch import nn

from sam_bench.data.batches import Batches
from sam_bench.optim.running_stats import reestimate_statistics
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.calibration import CalibrationError
from sam_bench.training.loss import cross_entropy

#: Mean cross-entropy in nats, without label smoothing; error and expected calibration error, both in percent.
MEASURES = ("test_loss", "test_error", "test_ece")


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Batches, batch_size: int, hardware: Hardware, processes: Processes
) -> dict[str, float]:
    """Return the model's `MEASURES`, and leave the model in evaluation mode.

    Each process evaluates its share of the batches, and all return the same result.
    """
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=hardware.device)
    wrong = torch.zeros((), dtype=torch.int64, device=hardware.device)
    calibration = CalibrationError(hardware.device)

    for number, (images, labels) in enumerate(batches.plain(batch_size)):
        if number % processes.world_size == processes.rank:
            with hardware.autocast():
                logits = model(images)
            loss += cross_entropy(logits, labels) * len(labels)
            wrong += (logits.argmax(1) != labels).sum()
            calibration.update(logits, labels)

    processes.add(loss, wrong, calibration.excess)
    count = len(batches.labels)
    return {
        "test_loss": loss.item() / count,
        "test_error": 100 * wrong.item() / count,
        "test_ece": calibration.percent(count),
    }


@torch.no_grad()
def estimate_on_training_images(
    model: nn.Module, train: Batches, epoch: int, hardware: Hardware, processes: Processes
) -> None:
    """Re-estimate the model's running statistics in a forward pass over the training images.

    Each process estimates them on its share of the images, and all of them take the mean.

    Args:
        epoch: epoch whose order and augmentation of the images the pass uses.
    """
    with hardware.autocast():
        reestimate_statistics(model, (batch.images for batch in train.epoch(epoch)))
    processes.average_statistics(model)
