"""Tests of `data.subset_seed`, which chooses the images of a training subset and nothing else."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.data.images import Dataset, Images, divide
from sam_bench.data.registry import DATASETS
from sam_bench.errors import ConfigError
from sam_bench.training.build import load_data

#: Number of images.
COUNT = 1000


def divide_numbered(split: str, count: int | None, seed: int | None = None) -> Dataset:
    """Divide images whose pixels are their numbers, so that a test can tell them apart."""
    numbered = Images(torch.arange(COUNT).view(-1, 1), torch.arange(COUNT) % 10)
    return divide(DATASETS["synthetic"], numbered, numbered, split, count, seed)


def loaded(*overrides: str) -> Dataset:
    """Load a subset of the synthetic data with these settings."""
    return load_data(compose.compose(["data=synthetic", "data.train_subset=100", *overrides]).data)


def test_subset_without_seed_has_known_images():
    # The images that earlier runs were trained on.
    images = [3, 71, 88, 105, 243, 269, 290, 304, 339, 350, 397, 435, 471, 566, 612, 654, 667, 676, 778, 962]
    assert divide_numbered("test", 20).train.pixels.flatten().tolist() == images


def test_subset_seed_chooses_other_images_per_class():
    subsets = [divide_numbered("test", 20, seed).train for seed in (None, 0, 1)]
    assert len({tuple(subset.pixels.flatten().tolist()) for subset in subsets}) == 3
    assert all(torch.bincount(subset.labels).tolist() == [2] * 10 for subset in subsets)


def test_subset_seed_keeps_held_out_images():
    divisions = [divide_numbered("val", 20, seed) for seed in (None, 0, 1)]
    held_out = {tuple(division.test.pixels.flatten().tolist()) for division in divisions}
    assert len(held_out) == 1
    for division in divisions:
        assert not set(division.train.pixels.flatten().tolist()) & set(*held_out)


def test_subset_seed_changes_digest():
    assert loaded("data.subset_seed=1").sha256 == loaded("data.subset_seed=1", "seed=5").sha256
    choices = ([], ["data.subset_seed=1"], ["data.subset_seed=2"])
    assert len({loaded(*choice).sha256 for choice in choices}) == 3


def test_subset_seed_keeps_images_with_label_noise():
    noisy, clean = (loaded("data.subset_seed=1", f"data.label_noise={share}") for share in (0.4, 0))
    assert torch.equal(noisy.train.pixels, clean.train.pixels)
    assert torch.equal(noisy.train.true_labels, clean.train.labels)
    assert noisy.train.wrong_labels > 20


def test_subset_seed_is_in_identity_of_subsets():
    def identity(*overrides: str):
        return compose.compose(["data=synthetic", *overrides]).identity()["data"]

    assert identity("data.subset_seed=1") == identity()
    assert "subset_seed" not in identity("data.train_subset=100")
    assert identity("data.train_subset=100", "data.subset_seed=1")["subset_seed"] == 1


def test_subset_seed_can_refer_to_seed():
    config = compose.compose(["data=synthetic", "data.train_subset=100", "data.subset_seed=${seed}", "seed=7"])
    assert config.data.subset_seed == 7


@pytest.mark.parametrize("value", ["-1", "1.5", "x"])
def test_bad_subset_seed_is_refused(value):
    with pytest.raises(ConfigError, match=r"data\.subset_seed"):
        compose.compose([f"data.subset_seed={value}"])
