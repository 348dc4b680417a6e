"""Tests of the synthetic data set."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.data import synthetic
from tests.conftest import execute


def test_synthetic_data_are_fixed_and_balanced():
    (train, test), (second, _) = synthetic.load(), synthetic.load()
    assert torch.equal(train.pixels, second.pixels)
    assert torch.bincount(train.labels).tolist() == [500] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    assert train.pixels.dtype == torch.uint8


def test_synthetic_data_can_be_learned(folder):
    overrides = ["experiment=smoke", "optimizer=sgd", "data.train_subset=1000", "data.cutout=false"]
    overrides += ["trainer.epochs=4", "trainer.batch_size=50", "trainer.precision=fp32", "trainer.device=cpu"]
    record = execute(compose.compose([*overrides, "trainer.progress=none"]))

    assert record["test_error"] < 50
    assert record["dataset"] == "synthetic"
    assert record["train_loss"] < record["history"]["train_loss"][0]


def test_synthetic_classes_do_not_differ_in_brightness():
    train, _ = synthetic.load()
    means = torch.stack([train.pixels[train.labels == label].float().mean() for label in range(10)])
    assert means.std() < train.pixels.float().mean(dim=(1, 2, 3)).std() * 2
    assert means.mean() == pytest.approx(128, abs=5)
