"""Tests of label smoothing and of evaluation, against plain computations."""

import math

import pytest
import torch

from sam_bench.data.augment import Augment
from sam_bench.data.batches import Batches
from sam_bench.data.images import Images
from sam_bench.data.registry import DATASETS
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.evaluate import evaluate
from sam_bench.training.loss import cross_entropy, smoothing_for_torch

NORMALISE = DATASETS["cifar10"].mean, DATASETS["cifar10"].std


def plain_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float, over: str) -> float:
    """Return the mean cross entropy with label smoothing, in Python numbers."""
    total = 0.0
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(score) for score in scores))
        for k, score in enumerate(scores):
            if over == "others":
                target = 1 - smoothing if k == label else smoothing / (len(scores) - 1)
            else:
                target = smoothing / len(scores) + (1 - smoothing) * (k == label)
            total -= target * (score - normaliser)
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("over", ["others", "all"])
@pytest.mark.parametrize("classes", [10, 100])
def test_smoothing_equals_its_definition(classes, over, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (20,), generator=generator)
    loss = cross_entropy(logits, labels, smoothing_for_torch(smoothing, over, classes))
    assert loss.item() == pytest.approx(plain_cross_entropy(logits, labels, smoothing, over), abs=1e-12)


def test_loss_of_half_precision_is_single_precision():
    logits = torch.randn(8, 10).bfloat16()
    labels = torch.arange(8)
    assert cross_entropy(logits, labels).dtype == torch.float32
    assert torch.equal(cross_entropy(logits, labels), cross_entropy(logits.float(), labels))


@pytest.mark.parametrize("batch_size", [7, 50, 100])
def test_evaluation_counts_each_image_once(batch_size):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    pixels, labels = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (50,))
    augment = Augment(True, True, NORMALISE, True, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = Batches(Images(pixels, labels), augment, 10, seed=0)

    measured = evaluate(model, batches, batch_size, Hardware(torch.device("cpu"), "fp32"), Processes("cpu"))

    with torch.no_grad():
        logits = model.eval()(augment.evaluate(augment.prepare(pixels)))
    assert measured["test_error"] == 100 * (logits.argmax(1) != labels).sum().item() / 50
    assert measured["test_loss"] == pytest.approx(plain_cross_entropy(logits, labels, 0, "all"), rel=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
