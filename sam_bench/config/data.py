"""The settings of the images: data set, split, labels and augmentation."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from sam_bench.config.fields import Settings, path_of
from sam_bench.data.registry import CUTOUT, CUTOUT_PROBABILITY, DATASETS, HUMAN_LABELS, PADDING, DatasetSpec
from sam_bench.errors import ConfigError


class DataConfig(Settings):
    """The images, their split and their augmentation (`data=`)."""

    name: Literal[*DATASETS]
    #: The folder where the data set's files are looked for, and kept.
    root: str = Field(exclude=True)
    #: Seconds that each remote source of the files may take.
    timeout: float = Field(gt=0, exclude=True)
    #: "test" evaluates on the test set; "val", to choose hyper-parameters, on a held-out tenth of the training set.
    split: Literal["test", "val"]
    #: Train on this many images only, equally many of each class.
    train_subset: int | None = Field(default=None, ge=1)
    #: The seed that chooses these images. Null chooses the same ones in every run.
    subset_seed: int | None = Field(default=None, ge=0, lt=2**63)
    #: Labels of training and held-out images: the true ones ("clean"), or human ones (CIFAR-10N). Test labels are true.
    labels: Literal["clean", *HUMAN_LABELS] = Field(exclude_if=lambda value: value == "clean")
    #: The share of training and held-out labels that are replaced by random ones. Test labels are always true.
    label_noise: float = Field(ge=0, lt=1, exclude_if=lambda value: value == 0.0)
    #: Classes that a random label is drawn from: "all", the true one too, or the "others".
    noise_over: Literal["all", "others"]
    #: The seed of the random labels. They do not depend on the run's own seed.
    noise_seed: int = Field(ge=0, lt=2**63)
    #: A random crop after padding, which shifts an image by up to `padding_pixels` on each axis.
    crop: bool
    #: Padding of the crop: zeros, or the image mirrored at its edge.
    padding: Literal["zeros", "reflect"] = Field(exclude_if=lambda value: value == "zeros")
    #: Pixels of padding on each side.
    padding_pixels: int = Field(default=PADDING, ge=1, le=16, exclude_if=lambda value: value == PADDING)
    #: A horizontal flip with probability 1/2.
    flip: bool
    #: Flip each image at random in the first epoch, and reverse all flips in every other epoch.
    alternate_flips: bool = Field(default=False, exclude_if=lambda value: not value)
    #: Normalise with the data set's mean and standard deviation.
    normalise: bool
    #: A square box of zeros, 16×16 with probability 1/2 unless the next three settings say otherwise.
    cutout: bool
    #: Rows and columns of the box.
    cutout_size: int = Field(default=CUTOUT, ge=1, le=32, exclude_if=lambda value: value == CUTOUT)
    #: The share of the images that have a box.
    cutout_probability: float = Field(
        default=CUTOUT_PROBABILITY, gt=0, le=1, exclude_if=lambda value: value == CUTOUT_PROBABILITY
    )
    #: Keep the whole box within the image; otherwise up to half of it may lie outside on each axis.
    cutout_inside: bool = Field(default=False, exclude_if=lambda value: not value)
    #: The α of mixup, which mixes pairs of a batch with weights from Beta(α, α); 0 switches it off.
    mixup: float = Field(ge=0, exclude_if=lambda value: value == 0.0)

    def model_post_init(self, context: Any) -> None:
        if self.train_subset is not None:
            self._check_subset(self.train_subset)
        if self.labels != "clean":
            self._check_labels()

        if self.alternate_flips and not self.flip:
            raise ConfigError(
                "data.alternate_flips=true needs data.flip, which is false: set data.flip=true, or "
                "data.alternate_flips=false"
            )
        if 0 < self.label_noise * self.spec.train_images < 1:
            raise ConfigError(
                f"data.label_noise={self.label_noise} is too small: it replaces none of the {self.spec.train_images} "
                f"training labels of {self.spec.title}. Raise it, or set it to 0"
            )

        if self.spec.files is not None:
            self._check_root()

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the settings that can change the result, without those of unused label noise and subsets."""
        values = dump(self)
        unused = set() if self.label_noise else {"noise_over", "noise_seed"}
        if self.train_subset is None:
            unused.add("subset_seed")
        return {key: value for key, value in values.items() if key not in unused}

    def _check_subset(self, count: int) -> None:
        title = self.spec.title
        classes = self.spec.classes
        available = self.spec.available(self.split)
        if count % classes:
            raise ConfigError(f"data.train_subset={count} is not a multiple of {classes}, the classes of {title}")
        if count > available:
            raise ConfigError(f"data.train_subset={count} is more than the {available} training images of {title}")

    def _check_labels(self) -> None:
        if not self.spec.has_human_labels:
            raise ConfigError(
                f"data.labels={self.labels} with data={self.name}: only CIFAR-10 has human labels. "
                "Choose data=cifar10, or data.labels=clean"
            )
        if self.label_noise:
            raise ConfigError(
                f"data.labels={self.labels} and data.label_noise={self.label_noise} cannot be combined. "
                "Set data.label_noise=0, or data.labels=clean"
            )

    def _check_root(self) -> None:
        root = self.folder
        if root.exists() and not root.is_dir():
            raise ConfigError(f"data.root={self.root} is not a folder")
        if not root.exists() and not root.absolute().parent.is_dir():
            raise ConfigError(f"data.root={self.root} cannot be created: there is no folder {root.absolute().parent}")

    @property
    def spec(self) -> DatasetSpec:
        """Return the data set's entry in the registry."""
        return DATASETS[self.name]

    @property
    def train_images(self) -> int:
        """Return the number of images that a run trains on."""
        return self.train_subset or self.spec.available(self.split)

    @property
    def folder(self) -> Path:
        """Return the path of `root`, with the home folder expanded."""
        return path_of("data.root", self.root)
