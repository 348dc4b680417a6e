"""The registry of data sets. It does not import torch: a data set's code is imported when its images are loaded."""

from dataclasses import dataclass

#: `data.split=val` holds out one in this many training images.
HELD_OUT = 10

#: Default of `data.padding_pixels`: pixels of padding on each side of an image, before a random crop.
PADDING = 4

#: Default of `data.cutout_size`: rows and columns of the box of zeros.
CUTOUT = 16

#: Default of `data.cutout_probability`: the share of the images that get a box.
CUTOUT_PROBABILITY = 0.5


#: Sets of human labels: the name in `data.labels`, and the name in the published file.
HUMAN_LABELS = {
    "worse": "worse_label",
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
}


@dataclass(frozen=True)
class DatasetSpec:
    """A registry entry for a data set of 32×32 images."""

    #: The name in `data=name`.
    name: str
    title: str
    classes: int
    train_images: int
    test_images: int
    #: Mean of red, green and blue, for pixels between 0 and 1. `data.normalise` subtracts it.
    mean: tuple[float, float, float]
    #: Standard deviation of red, green and blue. `data.normalise` divides by it.
    std: tuple[float, float, float]
    #: The function that reads training and test set from the folder of the files: "module:function".
    loader: str
    #: The `download.Files` of the data set: "module:name". None if the images are generated.
    files: str | None = None
    #: There is a file of human labels for the training images.
    has_human_labels: bool = False

    def available(self, split: str) -> int:
        """Return the number of training images; the val split holds some out, equally many of each class."""
        held_out = self.train_images // HELD_OUT // self.classes * self.classes
        return self.train_images - (held_out if split == "val" else 0)


_CIFAR10 = DatasetSpec(
    "cifar10",
    "CIFAR-10",
    classes=10,
    train_images=50_000,
    test_images=10_000,
    mean=(0.4913996786, 0.4821584084, 0.4465309144),  # of the training set, as is the next line
    std=(0.2470322325, 0.2434851280, 0.2615878417),
    loader="sam_bench.data.cifar:load_cifar10",
    files="sam_bench.data.cifar:CIFAR10",
    has_human_labels=True,
)

_CIFAR100 = DatasetSpec(
    "cifar100",
    "CIFAR-100",
    classes=100,
    train_images=50_000,
    test_images=10_000,
    mean=(0.5071, 0.4865, 0.4409),  # of the training set, as is the next line
    std=(0.2673, 0.2564, 0.2762),
    loader="sam_bench.data.cifar:load_cifar100",
    files="sam_bench.data.cifar:CIFAR100",
)

_SYNTHETIC = DatasetSpec(
    "synthetic",
    "the generated set",
    classes=10,
    train_images=5_000,
    test_images=1_000,
    mean=_CIFAR10.mean,  # it stands in for CIFAR-10
    std=_CIFAR10.std,
    loader="sam_bench.data.synthetic:load",
)

DATASETS = {spec.name: spec for spec in (_CIFAR10, _CIFAR100, _SYNTHETIC)}
