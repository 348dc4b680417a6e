"""The settings of a run: their types, meanings and rules. Their values are in `conf/`."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sam_bench.config.fields import Items, Settings
from sam_bench.data.registry import CUTOUT, CUTOUT_PROBABILITY, DATASETS, HUMAN_LABELS, PADDING, DatasetSpec
from sam_bench.errors import ConfigError
from sam_bench.loggers.registry import LoggerConfig
from sam_bench.lookup import lookup
from sam_bench.models.registry import MODELS
from sam_bench.optim.registry import BASES, METHODS


class BaseConfig(Settings):
    """The base optimizer, which takes the steps (`optimizer/base=`)."""

    name: Literal[*BASES]
    #: The largest learning rate, reached after the warm-up.
    lr: float = Field(gt=0)
    #: Weight decay of every parameter.
    weight_decay: float = Field(ge=0)
    #: Factor on `lr` for the biases of normalisation layers. Their weight decay is divided by it, so that a step
    #: shrinks all parameters in the same proportion.
    norm_bias_lr_factor: float = Field(default=1.0, gt=0, exclude_if=lambda value: value == 1.0)
    #: The decay of the momentum buffer.
    momentum: float | None = Field(default=None, ge=0, lt=1)
    #: Use Nesterov's momentum.
    nesterov: bool | None = None
    #: For Adam-like bases: the decay of the first and of the second moment.
    betas: Items[Annotated[float, Field(ge=0, lt=1)]] | None = None
    #: What is added to the denominator of an update.
    eps: float | None = Field(default=None, gt=0)
    #: For Muon: the learning rate of the tensors that AdamW trains instead. A schedule changes it together with `lr`.
    other_lr: float | None = Field(default=None, gt=0)

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for entry in BASES.values() for name in entry.options}
        _check_applicable("optimizer.base", optional, BASES[self.name].options, self.name)

        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.base.nesterov=true needs a momentum above 0; set optimizer.base.momentum=0.9")
        if self.betas is not None and len(self.betas) != 2:
            raise ConfigError(f"optimizer.base.betas={list(self.betas)} must be two numbers, such as [0.9,0.999]")

    def options(self) -> dict[str, object]:
        """Return the arguments of the optimizer's constructor."""
        own = {name: getattr(self, name) for name in BASES[self.name].options}
        return {"lr": self.lr, "weight_decay": self.weight_decay, **own}

    @property
    def has_momentum(self) -> bool:
        """Return True if it keeps a momentum buffer that MSAM can perturb along."""
        return BASES[self.name].momentum_buffer and bool(self.momentum or self.betas)


#: Settings of methods that perturb.
_RADIUS = ("rho", "rho_min", "rho_schedule")
#: Settings of methods with a second pass.
_SECOND_PASS = ("sync_perturbation", "m", "start_at")


class OptimizerConfig(Settings):
    """The method, its radius and its hyper-parameters (`optimizer=`).

    Fields below are settings of several methods. Those of one method are in its registry entry.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    base: BaseConfig
    #: Passes that update BatchNorm's running statistics: only the unperturbed one ("clean"), or both.
    batchnorm: Literal["clean", "both"]
    #: The largest norm of the direction that the base optimizer gets. The gradients behind it are not clipped.
    clip_norm: float | None = Field(default=None, gt=0)
    #: The radius ρ; with a schedule, its largest value.
    rho: float | None = Field(default=None, ge=0)
    #: The smallest radius of a schedule.
    rho_min: float | None = Field(default=None, ge=0)
    #: "proportional" follows the learning rate, as in GSAM; the others depend on the step only.
    rho_schedule: Literal["constant", "linear", "cosine", "proportional"] | None = None
    #: Number of examples that share a perturbation (m-sharpness). By default a process's whole part of the batch.
    m: int | None = Field(default=None, ge=1)
    #: With several processes, use one perturbation for all of them, along the averaged gradient.
    sync_perturbation: bool | None = None
    #: The fraction of the run after which the method begins; before, the base optimizer runs alone (Tail-SAM).
    start_at: float | None = Field(default=None, ge=0, lt=1, exclude_if=lambda value: value == 0.0)

    @classmethod
    def names(cls) -> list[str]:
        return super().names() + _option_names()

    @model_validator(mode="before")
    @classmethod
    def _read_method_options(cls, values: Any) -> Any:
        """Check the settings that only some methods have, and convert the method's own options to their types."""
        if not (isinstance(values, dict) and isinstance(values.get("name"), str)):
            return values  # pydantic refuses it by its type
        method = lookup(METHODS, values["name"], "optimizer.name")
        for name in values.keys() - cls.names():
            raise ConfigError(cls.unknown(name, "optimizer"))

        needed = (_RADIUS if method.perturbs else ()) + (_SECOND_PASS if method.two_passes else ())
        if values.get("m") is not None and not method.takes_parts:
            needed = tuple(name for name in needed if name != "m")
        may_be_null = ("m", *(option.name for option in method.options if option.optional))
        options = _option_names()
        optional = {name: values.get(name) for name in (*_RADIUS, *_SECOND_PASS, *options)}
        _check_applicable("optimizer", optional, needed + method.option_names, method.name, may_be_null)

        try:
            own = {option.name: option.read(values.get(option.name)) for option in method.options}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer.{error}") from error
        return {name: value for name, value in values.items() if name not in options} | own

    def model_post_init(self, context: Any) -> None:
        method = METHODS[self.name]
        if self.m is not None and self.sync_perturbation:
            raise ConfigError(
                "optimizer.sync_perturbation=true uses one perturbation for a whole batch, and "
                f"optimizer.m={self.m} uses several: remove one of them"
            )

        if method.needs_momentum and not self.base.has_momentum:
            raise ConfigError(
                f"optimizer={self.name} perturbs along the momentum of its base optimizer, and {self.base.name} keeps "
                "none: choose optimizer/base=adamw, or optimizer/base=sgd with optimizer.base.momentum=0.9"
            )

        if self.rho_schedule in ("linear", "cosine") and self.rho_min == self.rho > 0:
            raise ConfigError(
                f"optimizer.rho_schedule={self.rho_schedule} needs optimizer.rho_min below optimizer.rho "
                f"(both are {self.rho}): lower rho_min, or choose constant"
            )
        if method.perturbs and self.rho_schedule != "constant" and self.rho_min > self.rho:
            raise ConfigError(
                f"optimizer.rho_min={self.rho_min} is greater than optimizer.rho={self.rho}, the largest radius of the "
                "schedule: lower rho_min or raise rho"
            )

    def options(self) -> dict[str, object]:
        """Return the method's own settings, as the arguments of its constructor."""
        return dict(self.model_extra)


class AveragingConfig(Settings):
    """Means of the weights, kept beside the weights themselves (`averaging=`)."""

    name: Literal["none", "swa", "ema", "lookahead"]
    #: For swa: fractions of the run. Each starts a running mean, which takes in the weights after every later epoch.
    starts: Items[Annotated[float, Field(ge=0, lt=1)]] | None = None
    #: For ema: after every step, mean ← decay · mean + (1 − decay) · w. For lookahead, see `Lookahead`.
    decay: float | None = Field(default=None, ge=0, lt=1)
    #: For lookahead: steps between two updates of the mean, after which the weights are set to it.
    every: int | None = Field(default=None, ge=1)

    def model_post_init(self, context: Any) -> None:
        own = {"none": (), "swa": ("starts",), "ema": ("decay",), "lookahead": ("decay", "every")}
        optional = {"starts": self.starts, "decay": self.decay, "every": self.every}
        _check_applicable("averaging", optional, own[self.name], self.name)

        if self.starts is not None and (not self.starts or len(set(self.starts)) < len(self.starts)):
            raise ConfigError(f"averaging.starts={list(self.starts)} must be one or more different fractions")


Lengths = Items[Annotated[float, Field(gt=0)]]


class AnalysisConfig(Settings):
    """Measurements of the loss around the weights, on some of the training images (`analysis=`).

    The loss is the plain cross-entropy, whatever the run trains on. An analysis does not change the run's result. Its
    time is not part of the training and evaluation time, but its memory is part of the run's memory.
    """

    name: Literal["none", "sharpness"]
    #: Epochs between measurements. The weights of the last epoch are always measured.
    every: int | None = Field(default=None, ge=1)
    #: Number of training images: equally many of each class, the same for every run, not augmented.
    images: int | None = Field(default=None, ge=1)
    #: Images in a pass. With batchnorm="batch" it is also the m of m-sharpness.
    batch_size: int | None = Field(default=None, ge=1)
    #: Statistics that batch normalisation uses: the running ones ("stored"), or those of each batch.
    batchnorm: Literal["stored", "batch"] | None = None
    #: Number of the Hessian's largest eigenvalues.
    eigenvalues: int | None = Field(default=None, ge=0, le=100)
    #: Tolerance of an eigenpair: the norm of `H v − λ v`, relative to |λ|.
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    #: Number of random vectors that estimate the Hessian's trace.
    trace_vectors: int | None = Field(default=None, ge=0)
    #: The ρ of worst-case sharpness.
    radii: Lengths | None = None
    #: The ρ of adaptive worst-case sharpness.
    adaptive_radii: Lengths | None = None
    #: Steps of ascent for worst-case sharpness, beyond the one-step estimate.
    ascent_steps: int | None = Field(default=None, ge=0)
    #: The σ of average-case sharpness.
    sigmas: Lengths | None = None
    #: The σ of adaptive average-case sharpness.
    adaptive_sigmas: Lengths | None = None
    #: Pairs of random perturbations for each σ.
    draws: int | None = Field(default=None, ge=1)

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for name in type(self).model_fields if name != "name"}
        _check_applicable("analysis", optional, () if self.name == "none" else tuple(optional), self.name)

        for name in ("radii", "adaptive_radii", "sigmas", "adaptive_sigmas"):
            values = getattr(self, name) or ()
            if len({f"{value:g}" for value in values}) < len(values):
                raise ConfigError(f"analysis.{name}={list(values)} must hold each value once")

    def check_images(self, classes: int, available: int) -> None:
        """Check that `images` can be equally many of each class, and are not more than the training images.

        Args:
            available: the number of training images.

        Raises:
            ConfigError: `images` is not a multiple of `classes`, or more than `available`.
        """
        if self.images % classes or self.images > available:
            raise ConfigError(
                f"analysis.images={self.images} must be a multiple of the {classes} classes, and at most the "
                f"{available} training images"
            )

    @property
    def is_off(self) -> bool:
        """Return True if nothing is measured."""
        return self.name == "none"


class ModelConfig(Settings):
    """The network (`model=`)."""

    #: The kind of network. `model=NAME` sets it together with the settings below.
    family: Literal[*MODELS]
    #: Layers with weights, as the family's paper counts them.
    depth: int | None = Field(default=None, ge=1)
    #: For a wide residual network: the factor on ResNet's number of channels.
    width: int | None = Field(default=None, ge=1)
    #: PyramidNet's α: the number of channels that all blocks together add.
    alpha: int | None = Field(default=None, ge=1)
    #: For ResNeXt: the number of groups of its convolutions.
    groups: int | None = Field(default=None, ge=1)
    #: For ResNeXt: channels of each group in the first stage.
    group_width: int | None = Field(default=None, ge=1)
    #: The accuracy in percent that an airbench network is named after, 94 or 96.
    accuracy: int | None = Field(default=None, ge=1)
    #: With `model=torchvision`: the name of the classifier, such as resnet18.
    arch: str | None = None

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for entry in MODELS.values() for name in entry.options}
        _check_applicable("model", optional, MODELS[self.family].options, self.family)
        MODELS[self.family].check(self.options())

    @classmethod
    def unknown(cls, name: str, path: str) -> str:
        if name == "name":
            return "Unknown setting model.name. Choose a network with model=NAME"
        return super().unknown(name, path)

    def options(self) -> dict[str, object]:
        """Return the arguments of the network's constructor, except the number of classes."""
        return {name: getattr(self, name) for name in MODELS[self.family].options}

    @property
    def name(self) -> str:
        """Return the network's name in papers, tables and records, such as wrn16_8."""
        return MODELS[self.family].name_of(self.options())

    @property
    def title(self) -> str:
        """Return the name, followed by the settings that it leaves out, such as torchvision-resnet18."""
        return "-".join((self.name, *map(str, self._unnamed().values())))

    @model_serializer
    def _dump(self) -> dict[str, object]:
        """Return the name, which implies most settings, and the settings that it leaves out."""
        return {"name": self.name, **self._unnamed()}

    def _unnamed(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in MODELS[self.family].unnamed}


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


class ScheduleConfig(Settings):
    """The learning rate over time (`schedule=`)."""

    name: Literal["step", "cosine", "linear", "constant", "triangular"]
    #: Epochs in which the rate first rises linearly.
    warmup_epochs: float = Field(ge=0)
    #: The fraction of the rate at which the warm-up starts.
    warmup_start: float = Field(ge=0, le=1, exclude_if=lambda value: value == 0.0)
    #: How often the rate changes, also in the warm-up.
    every: Literal["step", "epoch"]
    #: The last rate of cosine and linear, and η_min of a radius that is proportional to the learning rate.
    lr_min: float = Field(ge=0)
    #: For the step schedule: fractions of the run at which the rate is multiplied by `gamma`.
    milestones: Items[Annotated[float, Field(gt=0, lt=1)]] | None = None
    #: For the step schedule: the factor on the rate at each milestone.
    gamma: float | None = Field(default=None, gt=0, le=1)
    #: For the triangular schedule: the fraction of the rate at which it starts.
    start: float | None = Field(default=None, gt=0, le=1)
    #: For the triangular schedule: the fraction of the steps after which the full rate is reached.
    peak: float | None = Field(default=None, gt=0, lt=1)
    #: For the triangular schedule: the fraction of the rate towards which it falls at the end of the run.
    end: float | None = Field(default=None, ge=0, lt=1)

    def model_post_init(self, context: Any) -> None:
        own = {"step": ("milestones", "gamma"), "triangular": ("start", "peak", "end")}
        optional = {name: getattr(self, name) for names in own.values() for name in names}
        _check_applicable("schedule", optional, own.get(self.name, ()), self.name)

        if self.name == "triangular" and (self.warmup_epochs or self.lr_min or self.every == "epoch"):
            raise ConfigError(
                "schedule=triangular has its own rise and end, and changes in every step: leave "
                "schedule.warmup_epochs=0, schedule.lr_min=0 and schedule.every=step, and use schedule.peak and "
                "schedule.end"
            )


class TrainerConfig(Settings):
    """Training: its length, batch sizes, precision, device and checkpoints (`trainer=`)."""

    #: The number of passes over the training images.
    epochs: int = Field(ge=1)
    #: Examples in a step.
    batch_size: int = Field(ge=1)
    #: Examples in a forward pass, if a whole batch takes too much memory. The whole batch shares one perturbation.
    micro_batch_size: int | None = Field(default=None, ge=1)
    #: Examples in a forward pass of an evaluation.
    eval_batch_size: int = Field(ge=1)
    #: Epochs between evaluations. The last epoch is always evaluated.
    eval_every: int = Field(ge=1)
    #: Probability taken from the true class.
    label_smoothing: float = Field(ge=0, lt=1)
    #: How the losses of a batch become the one that is minimised. With "sum" the gradients are larger, by a factor of
    #: the batch size. Losses in records are means in both cases.
    loss_reduction: Literal["mean", "sum"] = Field(default="mean", exclude_if=lambda value: value == "mean")
    #: Full names of parameters that are trained for the first `freeze_after` epochs only.
    freeze: Items[str] | None = None
    #: The number of epochs after which they are frozen.
    freeze_after: int | None = Field(default=None, ge=1)
    #: Classes that share the smoothed probability: the K − 1 others, as in the SAM example, or all K, as in torch.
    smoothing_over: Literal["others", "all"]
    #: Where to train. "auto" is a GPU if there is one.
    device: Literal["auto", "cpu", "cuda"]
    #: Precision of the forward pass, by autocast; parameters are always float32. "auto" is bf16 on CUDA if the hardware
    #: has it, and on the CPU the faster of bf16 and fp32, as measured on this machine. With fp16 the loss is scaled.
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    #: "auto" is a bar in a terminal, else a plain line for each epoch.
    progress: Literal["auto", "bar", "plain", "none"] = Field(exclude=True)
    #: How steps are executed: "eager", one operation after another; "compile", with forward and loss compiled; "graph",
    #: on CUDA, compiled and with whole steps captured in a CUDA graph. "auto" is "eager" on the CPU, and on CUDA the
    #: last of these that the method allows.
    engine: Literal["auto", "eager", "compile", "graph"] = Field(exclude=True)
    #: Leave out the images of an epoch that do not fill a batch. Otherwise they are a smaller batch.
    drop_last: bool = Field(exclude_if=lambda value: not value)
    #: Use deterministic CUDA kernels, which are slower, so that a resumed run has exactly the result of an
    #: uninterrupted one. On the CPU it always has.
    deterministic: bool = Field(exclude=True)
    #: Steps that may be skipped because a gradient was not finite; null allows 200, or one in 500 of a longer run. A
    #: run that has skipped more by the end of an epoch has diverged.
    max_skipped: int | None = Field(default=None, ge=0)
    #: Minutes after which the run saves a checkpoint and ends. The same command continues from there.
    max_minutes: float | None = Field(default=None, gt=0, exclude=True)
    #: Epochs between checkpoints. One is always saved at the end.
    checkpoint_every: int | None = Field(default=None, ge=1, exclude=True)
    #: Minutes between checkpoints, also within an epoch.
    checkpoint_minutes: float | None = Field(default=None, gt=0, exclude=True)
    #: At the run's end, also measure the test error with test-time augmentation (`test_error_tta` in the record).
    test_time_augmentation: bool = Field(default=False, exclude=True)
    #: Run finished runs again. The old record and run folder are moved aside.
    rerun: bool = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ConfigError(
                f"trainer.micro_batch_size={self.micro_batch_size} is more than "
                f"trainer.batch_size={self.batch_size}; lower it, or leave it out for the whole batch"
            )

        if (self.freeze is None) != (self.freeze_after is None):
            raise ConfigError(
                f"trainer.freeze={self.freeze and list(self.freeze)} and trainer.freeze_after={self.freeze_after} need "
                "each other: set both (parameter names, and a number of epochs), or neither"
            )


class PathsConfig(Settings):
    """Folders for the files of runs."""

    #: Folder of checkpoints and other files that a run needs while it trains.
    runs: str = Field(exclude=True)
    #: Folder of the records of finished runs, and of the tables made from them.
    results: str = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        for name in ("runs", "results"):
            path = path_of(f"paths.{name}", getattr(self, name))
            if not getattr(self, name) or any(p.exists() and not p.is_dir() for p in (path, *path.parents)):
                raise ConfigError(
                    f"paths.{name}={getattr(self, name)} is not a folder and cannot become one: "
                    "it is empty, or it or a parent is a file"
                )

    def runs_of(self, experiment: str) -> Path:
        """Return the folder of an experiment's runs."""
        return path_of("paths.runs", self.runs) / experiment

    def results_of(self, experiment: str) -> Path:
        """Return the folder of an experiment's records and tables."""
        return path_of("paths.results", self.results) / experiment


class Config(Settings):
    """The whole configuration of a run."""

    #: The preset's name (`experiment=`), which is also the folder of its records and tables.
    experiment: str = Field(exclude=True)
    #: Seed of the initial weights, the order of the images and their augmentation.
    seed: int = Field(ge=0, lt=2**32)
    optimizer: OptimizerConfig
    averaging: AveragingConfig
    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    analysis: AnalysisConfig = Field(exclude=True)
    #: A Python file with further methods. Only the command line may set it.
    plugin: str | None = Field(default=None, exclude=True)
    logger: LoggerConfig = Field(exclude=True)
    paths: PathsConfig = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*", self.experiment):
            raise ConfigError(f"experiment={self.experiment} is not a folder name: use letters, digits, '_' and '-'")
        if self.schedule.warmup_epochs >= self.trainer.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs} must be smaller than "
                f"trainer.epochs={self.trainer.epochs}"
            )

        # Averages: at most one, and the method's own if it has one.
        if METHODS[self.optimizer.name].averages and self.averaging.name != "swa":
            raise ConfigError(
                f"averaging={self.averaging.name} does not work with optimizer={self.optimizer.name}: "
                "choose averaging=swa"
            )
        if self.averaging.name == "lookahead" and BASES[self.optimizer.base.name].averages:
            raise ConfigError(
                f"averaging=lookahead sets the weights to their mean, and optimizer/base={self.optimizer.base.name} "
                "keeps an average of its own: choose another base, or averaging=none"
            )

        # Sizes of batches and parts of them.
        if self.trainer.micro_batch_size is not None:
            selects_examples = METHODS[self.optimizer.name].cls.selects_examples
            if self.optimizer.m or selects_examples:
                raise ConfigError(
                    f"trainer.micro_batch_size={self.trainer.micro_batch_size} uses one perturbation for a whole batch"
                    f": it cannot be used with {self.optimizer.name if selects_examples else 'optimizer.m'}: remove one"
                    " of them"
                )
        if self.trainer.drop_last and self.data.train_images < self.trainer.batch_size:
            raise ConfigError(
                f"trainer.drop_last=true leaves no batch: trainer.batch_size={self.trainer.batch_size} is more than "
                f"the {self.data.train_images} training images"
            )

        if not self.analysis.is_off:
            self.analysis.check_images(self.data.spec.classes, self.data.train_images)

        # With more smoothing, a wrong class would have a greater target probability than the true one.
        most = (self.data.spec.classes - 1) / self.data.spec.classes
        if self.trainer.smoothing_over == "others" and self.trainer.label_smoothing > most:
            raise ConfigError(
                f"trainer.label_smoothing={self.trainer.label_smoothing} makes the true class less likely than the "
                f"others: with trainer.smoothing_over=others and data={self.data.name} it must be at most {most}"
            )

        if self.schedule.lr_min >= self.optimizer.base.lr:
            raise ConfigError(
                f"schedule.lr_min={self.schedule.lr_min} must be below optimizer.base.lr={self.optimizer.base.lr}"
            )

    @property
    def steps(self) -> int:
        """Return the number of steps of the whole run."""
        images = self.data.train_images
        size = self.trainer.batch_size
        return self.trainer.epochs * (images // size if self.trainer.drop_last else math.ceil(images / size))


def _option_names() -> list[str]:
    """Return the names of all methods' own options; two methods may use one name for different options."""
    return list(dict.fromkeys(name for entry in METHODS.values() for name in entry.option_names))


def path_of(key: str, text: str) -> Path:
    """Return the path that a setting gives, with the home folder expanded.

    Args:
        key: the setting, for the error message.

    Raises:
        ConfigError: the path begins with `~user`, and there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}={text} begins with the home folder of a user who does not exist") from error


def _check_applicable(
    group: str,
    optional: Mapping[str, Any],
    own: tuple[str, ...],
    owner: str,
    may_be_null: tuple[str, ...] = (),
) -> None:
    """Check that every optional setting has a value if it belongs to the chosen option, and none otherwise.

    Args:
        group: the group of settings, such as "optimizer".
        optional: the values of the optional settings, by name.
        own: the names of those that belong to the chosen option.
        owner: the chosen option, such as a method.
        may_be_null: the settings that need no value.

    Raises:
        ConfigError: a setting of another option has a value, or one of this option has none.
    """
    for name, value in sorted(optional.items()):
        if value is not None and name not in own:
            raise ConfigError(
                f"{group}.{name}={value} has no meaning for {owner}, "
                f"which has {', '.join(own) if own else 'no such settings'}; remove it, or choose another {group}"
            )
        if value is None and name in own and name not in may_be_null:
            raise ConfigError(f"{group}.{name} has no value, and {owner} needs one; set {group}.{name}=…")
