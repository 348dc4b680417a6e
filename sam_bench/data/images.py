"""A labelled set of images, and how it is divided."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_bench.data.registry import HELD_OUT, DatasetSpec

#: The seed of the held-out images, and of a subset that has no seed of its own.
DIVISION_SEED = 20_210_428


@dataclass(frozen=True)
class Images:
    """`pixels`: uint8, N × 3 × 32 × 32; `labels`: int64, N, from 0 to classes − 1; all on one device."""

    pixels: Tensor
    labels: Tensor
    #: Where there is label noise, the labels without it; None where `labels` are those.
    true_labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        return self._each(lambda tensor: tensor[indices])

    def to(self, device: torch.device) -> "Images":
        return self._each(lambda tensor: tensor.to(device))

    @property
    def wrong_labels(self) -> int:
        """How many labels are not the true ones."""
        return 0 if self.true_labels is None else int((self.labels != self.true_labels).sum())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Images":
        true = None if self.true_labels is None else change(self.true_labels)
        return Images(change(self.pixels), change(self.labels), true)


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and what it is measured on, with the sha256 of exactly these images and labels."""

    name: str
    train: Images
    test: Images
    sha256: str


def divide(
    spec: DatasetSpec,
    train: Images,
    test: Images,
    split: str,
    train_subset: int | None,
    subset_seed: int | None = None,
) -> Dataset:
    """Return the split and subset that a run asks for; the same images with label noise as without.

    Args:
        split: "test" keeps both sets; "val" measures on a tenth of the training set, the same for every run, and does
            not touch the test set.
        train_subset: train on so many images only, equally many of each class.
        subset_seed: chooses these images; None is one choice, the same for every run. The held-out images are the same
            for every seed.

    Raises:
        ValueError: some class has too few images for the subset.
    """
    if split == "val":
        test, train = balanced(train, len(train) // HELD_OUT, spec.classes)
    if train_subset is not None:
        seed = DIVISION_SEED if subset_seed is None else subset_seed
        train, _ = balanced(train, train_subset, spec.classes, seed)
    return Dataset(spec.name, train, test, digest(train, test))


def digest(*sets: Images) -> str:
    """Return the sha256 of exactly these images and labels, which are on the CPU."""
    content = hashlib.sha256()
    for images in sets:
        content.update(images.pixels.contiguous().numpy())
        content.update(images.labels.numpy())
    return content.hexdigest()


def balanced(images: Images, count: int, classes: int, seed: int = DIVISION_SEED) -> tuple[Images, Images]:
    """Return `count` images, equally many of each true class, and the others; each in the original order.

    Raises:
        ValueError: some class has too few images.
    """
    each = count // classes
    labels = images.labels if images.true_labels is None else images.true_labels
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(images), dtype=torch.bool)
    for label in range(classes):
        members = torch.nonzero(labels == label).squeeze(1)
        if len(members) < each:
            raise ValueError(f"there are only {len(members)} images of class {label}, not {each}")
        chosen[members[torch.randperm(len(members), generator=generator)[:each]]] = True
    return images.take(torch.nonzero(chosen).squeeze(1)), images.take(torch.nonzero(~chosen).squeeze(1))
