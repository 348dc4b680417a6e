"""Calibration error: against the definition written out, against a library, and in a run."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")

from torchmetrics.functional.classification import multiclass_calibration_error

from sam_bench.training.calibration import BINS, CalibrationError


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The definition, bin by bin, in float64."""
    values = logits.double().numpy()
    probabilities = np.exp(values - values.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels.numpy()
    total = 0.0
    for b in range(BINS):
        here = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if here.any():
            total += here.mean() * abs(right[here].mean() - confidence[here].mean())
    return 100 * total


def summed(logits: torch.Tensor, labels: torch.Tensor, batch_size: int) -> float:
    calibration = CalibrationError(logits.device)
    for x, y in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        calibration.update(x, y)
    return calibration.percent(len(labels))


def predictions(scale: float, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(1000, classes, generator=generator)
    return logits, torch.randint(classes, (1000,), generator=generator)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_it_is_the_definitions_however_batches_are_cut(scale, batch_size):
    logits, labels = predictions(scale)
    assert summed(logits, labels, batch_size) == pytest.approx(by_hand(logits, labels), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_it_is_a_librarys(classes):
    logits, labels = predictions(2.0, classes)
    known = multiclass_calibration_error(logits, labels, num_classes=classes, n_bins=BINS, norm="l1")
    assert summed(logits, labels, 100) == pytest.approx(100 * known.item(), rel=1e-5)


def test_confidence_that_is_right_has_none_and_certainty_that_is_wrong_has_all():
    labels = torch.arange(10)
    certain = 1000 * torch.eye(10)
    assert summed(certain, labels, 10) == 0
    assert summed(certain, (labels + 1) % 10, 10) == 100


def test_half_precision_and_predictions_that_are_no_numbers():
    logits, labels = predictions(1.0)
    halves = logits.bfloat16()
    assert summed(halves, labels, 100) == pytest.approx(by_hand(halves, labels), rel=1e-5)
    logits[3] = torch.nan
    assert np.isnan(summed(logits, labels, 100))


def test_every_evaluation_of_a_run_has_one(tiny_run):
    record = tiny_run("model=resnet8", "trainer.epochs=2", "trainer.eval_every=1", "averaging=ema")
    errors = record["history"]["test_ece"]
    assert len(errors) == 2 and all(0 <= error <= 100 for error in errors)
    assert record["test_ece"] == errors[-1]
    assert all(0 <= measured["test_ece"] <= 100 for measured in record["averaged"].values())
