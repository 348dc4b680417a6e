"""Tests of the calibration error, against its definition, against a library, and in a run."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")

from torchmetrics.functional.classification import multiclass_calibration_error

from sam_bench.training.calibration import BINS, CalibrationError


def plain_calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the calibration error, computed bin by bin in float64."""
    values = logits.double().numpy()
    probabilities = np.exp(values - values.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels.numpy()

    total = 0.0
    for b in range(BINS):
        in_bin = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if in_bin.any():
            total += in_bin.mean() * abs(correct[in_bin].mean() - confidence[in_bin].mean())
    return 100 * total


def calibration_error(logits: torch.Tensor, labels: torch.Tensor, batch_size: int) -> float:
    """Return the calibration error, added up over batches."""
    calibration = CalibrationError(logits.device)
    for x, y in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        calibration.update(x, y)
    return calibration.percent(len(labels))


def random_predictions(scale: float, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits and labels of 1000 examples."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(1000, classes, generator=generator)
    return logits, torch.randint(classes, (1000,), generator=generator)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_calibration_error_equals_definition(scale, batch_size):
    logits, labels = random_predictions(scale)
    expected = plain_calibration_error(logits, labels)
    assert calibration_error(logits, labels, batch_size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_calibration_error_equals_library(classes):
    logits, labels = random_predictions(2.0, classes)
    expected = multiclass_calibration_error(logits, labels, num_classes=classes, n_bins=BINS, norm="l1")
    assert calibration_error(logits, labels, 100) == pytest.approx(100 * expected.item(), rel=1e-5)


def test_calibration_error_of_certain_predictions():
    labels = torch.arange(10)
    certain = 1000 * torch.eye(10)
    assert calibration_error(certain, labels, 10) == 0
    assert calibration_error(certain, (labels + 1) % 10, 10) == 100


def test_calibration_error_of_half_precision_and_nan():
    logits, labels = random_predictions(1.0)
    halves = logits.bfloat16()
    assert calibration_error(halves, labels, 100) == pytest.approx(plain_calibration_error(halves, labels), rel=1e-5)

    logits[3] = torch.nan
    assert np.isnan(calibration_error(logits, labels, 100))


def test_record_has_calibration_errors(tiny_run):
    record = tiny_run("model=resnet8", "trainer.epochs=2", "trainer.eval_every=1", "averaging=ema")
    errors = record["history"]["test_ece"]
    assert len(errors) == 2 and all(0 <= error <= 100 for error in errors)
    assert record["test_ece"] == errors[-1]
    assert all(0 <= measured["test_ece"] <= 100 for measured in record["averaged"].values())
