"""The data sets. Reading this costs no import of torch: a data set's code is loaded when its images are."""

from dataclasses import dataclass

#: One training image in so many is held out by `data.split=val`.
HELD_OUT = 10

#: Pixels around an image from which a random crop is taken, unless a run sets `data.padding_pixels`.
PADDING = 4

#: Rows and columns of the box of zeros, unless a run sets `data.cutout_size`.
CUTOUT = 16

#: The share of the images that have such a box, unless a run sets `data.cutout_probability`.
CUTOUT_PROBABILITY = 0.5


#: The labels that people gave, by their names in `data.labels`, and what the published file calls them.
HUMAN_LABELS = {
    "worse": "worse_label",
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
}


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set of 32×32 images without its code."""

    #: As in `data=name`.
    name: str
    title: str
    classes: int
    train_images: int
    test_images: int
    #: Mean red, green and blue, between 0 and 1: what `data.normalise` subtracts.
    mean: tuple[float, float, float]
    #: What it then divides by.
    std: tuple[float, float, float]
    #: What reads the training and the test set from the folder of the files: "module:function".
    loader: str
    #: The files, their digests and where they can be had, a `download.Files`: "module:name". None: it is generated.
    files: str | None = None
    #: There is a file of labels that people gave to its training images.
    has_human_labels: bool = False

    def available(self, split: str) -> int:
        """Return how many images there are to train on; the val split leaves some out, equally many of each class."""
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
    mean=_CIFAR10.mean,  # which it stands for
    std=_CIFAR10.std,
    loader="sam_bench.data.synthetic:load",
)

DATASETS = {spec.name: spec for spec in (_CIFAR10, _CIFAR100, _SYNTHETIC)}
