"""Tests of the division of a data set into images to train on and images to test on."""

import torch

from sam_bench.data.images import Images, divide
from sam_bench.data.registry import DATASETS


def balanced_images(count: int, classes: int) -> Images:
    """Return images of noise, with equally many of each class."""
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    return Images(pixels, torch.arange(count) % classes)


def test_divide_is_balanced_fixed_and_disjoint():
    train, test, spec = balanced_images(1000, 10), balanced_images(200, 10), DATASETS["cifar10"]

    # The held-out images are balanced, and none of them is trained on.
    val = divide(spec, train, test, "val", None)
    assert (len(val.train), len(val.test)) == (900, 100)
    assert torch.bincount(val.test.labels).tolist() == [10] * 10
    held_out = {image.numpy().tobytes() for image in val.test.pixels}
    assert not any(image.numpy().tobytes() in held_out for image in val.train.pixels)

    # A subset is balanced too.
    subset = divide(spec, train, test, "test", 300)
    assert torch.bincount(subset.train.labels).tolist() == [30] * 10
    assert len(subset.test) == 200

    # Digests are equal for equal divisions, and for no others.
    whole = divide(spec, train, test, "test", None)
    assert subset.sha256 == divide(spec, train, test, "test", 300).sha256
    assert len({subset.sha256, val.sha256, whole.sha256}) == 3


def test_held_out_images_are_balanced_over_100_classes():
    train, test = balanced_images(5000, 100), balanced_images(100, 100)
    val = divide(DATASETS["cifar100"], train, test, "val", None)
    assert torch.bincount(val.test.labels).tolist() == [5] * 100
