"""Tests of the training errors on noisy labels, against a plain count and in runs."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.training.missed_labels import MissedLabels
from tests.conftest import execute

NOISY = ["data=synthetic", "data.train_subset=200", "data.label_noise=0.4", "model=resnet8", "trainer.device=cpu"]
NOISY += ["experiment=smoke", "trainer.epochs=2", "trainer.batch_size=50", "trainer.progress=none"]

#: Errors on all labels, on correct ones, on wrong ones, and against the true labels of these.
NAMES = ("train_error", "right_label_error", "wrong_label_error", "wrong_label_true_error")


def plain_errors(predicted: list[int], labels: list[int], true: list[int]) -> dict[str, float]:
    """Return the errors in percent, by name."""
    examples = list(zip(predicted, labels, true, strict=True))
    misses = [
        [p != y for p, y, _ in examples],
        [p != y for p, y, t in examples if y == t],
        [p != y for p, y, t in examples if y != t],
        [p != t for p, y, t in examples if y != t],
    ]
    return {name: 100 * sum(missed) / len(missed) for name, missed in zip(NAMES, misses, strict=True)}


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_errors_equal_plain_count(batch_size):
    generator = torch.Generator().manual_seed(0)
    predicted, labels, true = torch.randint(3, (3, 100), generator=generator)
    missed = MissedLabels(torch.device("cpu"))
    for batch in zip(*(values.split(batch_size) for values in (predicted, labels, true)), strict=True):
        missed.update(*batch)
    assert missed.errors(100) == plain_errors(predicted.tolist(), labels.tolist(), true.tolist())


def test_labels_without_noise_have_one_error():
    missed = MissedLabels(torch.device("cpu"))
    missed.update(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]), None)
    assert missed.errors(4) == {"train_error": 25.0}


@pytest.mark.parametrize("overrides", [["optimizer=sgd"], ["optimizer=sam", "optimizer.m=20"], ["optimizer=esam"]])
def test_run_on_noisy_labels_has_consistent_errors(folder, overrides):
    record = execute(compose.compose([*NOISY, *overrides]))
    wrong = record["wrong_train_labels"]
    correct = 200 - wrong

    for epoch in range(2):
        error, on_correct, on_wrong, against_true = (record["history"][name][epoch] for name in NAMES)
        assert error == pytest.approx((on_correct * correct + on_wrong * wrong) / 200)
        assert on_wrong + against_true >= 100  # a prediction cannot be both the wrong and the true class
        assert on_wrong * wrong / 100 == pytest.approx(round(on_wrong * wrong / 100))  # a number of images


def test_counting_errors_does_not_change_training(folder, monkeypatch):
    counted = execute(compose.compose([*NOISY, "optimizer=sam"]))

    monkeypatch.setattr(MissedLabels, "update", lambda self, predicted, labels, true: None)
    uncounted = execute(compose.compose([*NOISY, "optimizer=sam", "trainer.rerun=true"]))

    assert uncounted["history"]["train_loss"] == counted["history"]["train_loss"]
    assert uncounted["test_loss"] == counted["test_loss"]


def test_network_learns_before_it_memorises(folder):
    overrides = ["trainer.epochs=6", "data.train_subset=1000", "schedule.warmup_epochs=0", "optimizer=sgd"]
    record = execute(compose.compose([*NOISY, *overrides, "data.crop=false", "data.cutout=false"]))
    last = {name: record["history"][name][-1] for name in NAMES}
    assert last["wrong_label_true_error"] < 60 < last["wrong_label_error"]
