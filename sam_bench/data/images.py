"""A labelled set of images, and its division into splits and subsets."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_bench.data.registry import HELD_OUT, DatasetSpec

#: The seed that chooses the held-out images, and the images of a subset without a seed of its own.
DIVISION_SEED = 20_210_428


@dataclass(frozen=True)
class Images:
    """A labelled set of N images, all on one device."""

    #: uint8, N × 3 × 32 × 32.
    pixels: Tensor
    #: int64, N, from 0 to classes − 1.
    labels: Tensor
    #: With label noise: the labels without it. None if `labels` are the true ones.
    true_labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        return self._map(lambda tensor: tensor[indices])

    def to(self, device: torch.device) -> "Images":
        return self._map(lambda tensor: tensor.to(device))

    @property
    def wrong_labels(self) -> int:
        """Return the number of labels that are not the true ones."""
        return 0 if self.true_labels is None else int((self.labels != self.true_labels).sum())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Images":
        true_labels = None if self.true_labels is None else change(self.true_labels)
        return Images(change(self.pixels), change(self.labels), true_labels)


@dataclass(frozen=True)
class Dataset:
    """The images that a run trains on and is evaluated on, with the sha256 of exactly these images and labels."""

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
    """Return the split and subset that a run asks for. Label noise does not change which images they hold.

    Args:
        split: "test" keeps both sets. "val" evaluates on a held-out tenth of the training set, the same for every run,
            and leaves out the test set.
        train_subset: train on this many images only, equally many of each class.
        subset_seed: the seed that chooses these images; None chooses the same ones in every run. The held-out images
            do not depend on it.

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
    """Return the sha256 of exactly these images and labels, which must be on the CPU."""
    content = hashlib.sha256()
    for images in sets:
        content.update(images.pixels.contiguous().numpy())
        content.update(images.labels.numpy())
    return content.hexdigest()


def balanced(images: Images, count: int, classes: int, seed: int = DIVISION_SEED) -> tuple[Images, Images]:
    """Return `count` images, equally many of each true class, and the remaining ones; both in the original order.

    Raises:
        ValueError: some class has too few images.
    """
    per_class = count // classes
    labels = images.labels if images.true_labels is None else images.true_labels
    generator = torch.Generator().manual_seed(seed)

    chosen = torch.zeros(len(images), dtype=torch.bool)
    for label in range(classes):
        members = torch.nonzero(labels == label).squeeze(1)
        if len(members) < per_class:
            raise ValueError(f"class {label} has only {len(members)} images, and {per_class} are needed")
        chosen[members[torch.randperm(len(members), generator=generator)[:per_class]]] = True
    return images.take(torch.nonzero(chosen).squeeze(1)), images.take(torch.nonzero(~chosen).squeeze(1))
