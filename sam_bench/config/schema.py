"""What a run is. Values stand in `conf/`; their types, meanings and rules here."""

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
    """The optimizer that takes the steps (`optimizer/base=`)."""

    name: Literal[*BASES]
    #: The learning rate's greatest value, reached after the warm-up.
    lr: float = Field(gt=0)
    #: On every parameter.
    weight_decay: float = Field(ge=0)
    #: Times `lr`, the learning rate of the biases of normalisation layers. Their weight decay is divided by it, so that
    #: a step shrinks all parameters in the same proportion.
    norm_bias_lr_factor: float = Field(default=1.0, gt=0, exclude_if=lambda value: value == 1.0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    nesterov: bool | None = None
    betas: Items[Annotated[float, Field(ge=0, lt=1)]] | None = None
    eps: float | None = Field(default=None, gt=0)
    #: Of tensors that are not Muon's, where `lr` is Muon's; a schedule changes both.
    other_lr: float | None = Field(default=None, gt=0)

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for entry in BASES.values() for name in entry.options}
        _belonging("optimizer.base", optional, BASES[self.name].options, self.name)
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.base.nesterov=true needs a momentum above 0; set optimizer.base.momentum=0.9")
        if self.betas is not None and len(self.betas) != 2:
            raise ConfigError(f"optimizer.base.betas={list(self.betas)} must be two numbers, such as [0.9,0.999]")

    def options(self) -> dict[str, object]:
        """The arguments of the optimizer's constructor."""
        own = {name: getattr(self, name) for name in BASES[self.name].options}
        return {"lr": self.lr, "weight_decay": self.weight_decay, **own}

    @property
    def has_momentum(self) -> bool:
        """Whether it keeps a direction that MSAM can perturb along."""
        return BASES[self.name].momentum_buffer and bool(self.momentum or self.betas)


_RADIUS = ("rho", "rho_min", "rho_schedule")
_SECOND_PASS = ("sync_perturbation", "m", "start_at")


class OptimizerConfig(Settings):
    """The method, its radius and its hyper-parameters (`optimizer=`); its own are those of its registry entry."""

    model_config = ConfigDict(extra="allow")

    name: str
    base: BaseConfig
    #: Passes in which BatchNorm's running statistics change: the unperturbed one, or both.
    batchnorm: Literal["clean", "both"]
    #: The greatest norm of the direction that the base optimizer is given; gradients are not clipped before.
    clip_norm: float | None = Field(default=None, gt=0)
    #: The radius ρ; where it follows a schedule, its greatest value.
    rho: float | None = Field(default=None, ge=0)
    #: Where the radius's schedule ends.
    rho_min: float | None = Field(default=None, ge=0)
    #: Proportional is to the learning rate, as GSAM has it; the others are functions of the step.
    rho_schedule: Literal["constant", "linear", "cosine", "proportional"] | None = None
    #: Examples that share a perturbation (m-sharpness); by default all of a batch that one process has.
    m: int | None = Field(default=None, ge=1)
    #: With several processes, one perturbation for all of them, along the averaged gradient.
    sync_perturbation: bool | None = None
    #: The fraction of the run in which the base optimizer is alone, before the method begins (Tail-SAM).
    start_at: float | None = Field(default=None, ge=0, lt=1, exclude_if=lambda value: value == 0.0)

    @classmethod
    def names(cls) -> list[str]:
        return super().names() + _names_of_options()

    @model_validator(mode="before")
    @classmethod
    def _read_own(cls, values: Any) -> Any:
        """Check the settings that only some methods have, and bring the method's own to their types."""
        if not (isinstance(values, dict) and isinstance(values.get("name"), str)):
            return values  # which is refused by the types
        method = lookup(METHODS, values["name"], "optimizer.name")
        for name in values.keys() - cls.names():
            raise ConfigError(cls.unknown(name, "optimizer"))
        needed = (_RADIUS if method.perturbs else ()) + (_SECOND_PASS if method.has_second_pass else ())
        if not method.takes_parts:
            needed = tuple(name for name in needed if name != "m")
        may_be_null = ("m", *(option.name for option in method.options if option.optional))
        options = _names_of_options()
        optional = {name: values.get(name) for name in (*_RADIUS, *_SECOND_PASS, *options)}
        _belonging("optimizer", optional, needed + method.option_names, method.name, may_be_null)
        try:
            own = {option.name: option.read(values.get(option.name)) for option in method.options}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer.{error}") from error
        return {name: value for name, value in values.items() if name not in options} | own

    def model_post_init(self, context: Any) -> None:
        method = METHODS[self.name]
        if self.m is not None and self.sync_perturbation:
            raise ConfigError(
                "optimizer.sync_perturbation=true is one perturbation for a whole batch, and "
                f"optimizer.m={self.m} several: remove one of them"
            )
        if method.needs_momentum and not self.base.has_momentum:
            raise ConfigError(
                f"optimizer={self.name} perturbs along the momentum of {self.base.name}, which keeps none: "
                "choose optimizer/base=sgd or adamw, sgd with optimizer.base.momentum=0.9"
            )
        if self.rho_schedule in ("linear", "cosine") and self.rho_min == self.rho > 0:
            raise ConfigError(
                f"optimizer.rho_schedule={self.rho_schedule} has nowhere to go: optimizer.rho_min and "
                f"optimizer.rho are both {self.rho}; lower rho_min, or choose constant"
            )
        if method.perturbs and self.rho_schedule != "constant" and self.rho_min > self.rho:
            raise ConfigError(
                f"optimizer.rho_min={self.rho_min} is greater than optimizer.rho={self.rho}, from which the schedule "
                "comes down to it; lower rho_min or raise rho"
            )

    def options(self) -> dict[str, object]:
        """Return the method's own settings, as the arguments of its constructor."""
        return dict(self.model_extra)


class AveragingConfig(Settings):
    """Means of the weights, beside the raw ones (`averaging=`)."""

    name: Literal["none", "swa", "ema", "lookahead"]
    #: For swa: fractions of the run; each begins a running mean of the weights after every later epoch.
    starts: Items[Annotated[float, Field(ge=0, lt=1)]] | None = None
    #: For ema: after every step, mean ← decay · mean + (1 − decay) · w. For lookahead, see `Lookahead`.
    decay: float | None = Field(default=None, ge=0, lt=1)
    #: For lookahead: steps between two updates of the mean, after which the weights are set to it.
    every: int | None = Field(default=None, ge=1)

    def model_post_init(self, context: Any) -> None:
        own = {"none": (), "swa": ("starts",), "ema": ("decay",), "lookahead": ("decay", "every")}
        optional = {"starts": self.starts, "decay": self.decay, "every": self.every}
        _belonging("averaging", optional, own[self.name], self.name)
        if self.starts is not None and (not self.starts or len(set(self.starts)) < len(self.starts)):
            raise ConfigError(f"averaging.starts={list(self.starts)} must be one or more fractions, each of them once")


Lengths = Items[Annotated[float, Field(gt=0)]]


class AnalysisConfig(Settings):
    """What is measured of the loss around the weights, on some of the training images (`analysis=`).

    The loss is the plain cross-entropy, whatever was trained on. A run is the same with and without; its seconds are
    not counted among those of training and evaluation, its memory is.
    """

    name: Literal["none", "sharpness"]
    #: Epochs between measurements while a run trains; the last epoch's weights are always measured.
    every: int | None = Field(default=None, ge=1)
    #: How many of the training images, equally many of each class, the same for every run; not augmented.
    images: int | None = Field(default=None, ge=1)
    #: Images in a pass; with the statistics of each batch also the m of m-sharpness.
    batch_size: int | None = Field(default=None, ge=1)
    #: What batch normalisation normalises with: running statistics, or those of each batch.
    batchnorm: Literal["stored", "batch"] | None = None
    #: How many of the Hessian's greatest.
    eigenvalues: int | None = Field(default=None, ge=0, le=100)
    #: Of an eigenpair: the length of `H v − λ v`, as a part of |λ|.
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    #: Random vectors that the Hessian's trace is estimated with.
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
        _belonging("analysis", optional, () if self.name == "none" else tuple(optional), self.name)
        for name in ("radii", "adaptive_radii", "sigmas", "adaptive_sigmas"):
            values = getattr(self, name) or ()
            if len({f"{value:g}" for value in values}) < len(values):
                raise ConfigError(f"analysis.{name}={list(values)} must have each value once")

    def check_images(self, classes: int, available: int) -> None:
        """Find out whether there are as many training images, equally many of each class.

        Raises:
            ConfigError: there are not.
        """
        if self.images % classes or self.images > available:
            raise ConfigError(
                f"analysis.images={self.images} must be a multiple of the {classes} classes, and at most the "
                f"{available} training images"
            )

    @property
    def is_off(self) -> bool:
        """Whether nothing is measured."""
        return self.name == "none"


class ModelConfig(Settings):
    """The network (`model=`)."""

    family: Literal[*MODELS]
    #: Layers with weights, as the family's paper counts them.
    depth: int | None = Field(default=None, ge=1)
    #: For a wide residual network: how many times as many channels as ResNet's.
    width: int | None = Field(default=None, ge=1)
    #: PyramidNet's α: channels that its blocks add, all together.
    alpha: int | None = Field(default=None, ge=1)
    #: ResNeXt's groups of convolutions.
    groups: int | None = Field(default=None, ge=1)
    #: Channels in each of them, in the first stage.
    group_width: int | None = Field(default=None, ge=1)
    #: The accuracy in percent that an airbench network is named after, 94 or 96.
    accuracy: int | None = Field(default=None, ge=1)
    #: With `model=torchvision`, the name of the classifier, such as resnet18.
    arch: str | None = None

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for entry in MODELS.values() for name in entry.options}
        _belonging("model", optional, MODELS[self.family].options, self.family)
        MODELS[self.family].check(self.options())

    @classmethod
    def unknown(cls, name: str, path: str) -> str:
        if name == "name":
            return "model.name is no setting: a network's name follows from the others; choose one by model=…"
        return super().unknown(name, path)

    def options(self) -> dict[str, object]:
        """The arguments of the network's constructor, but for the number of classes."""
        return {name: getattr(self, name) for name in MODELS[self.family].options}

    @property
    def name(self) -> str:
        """What the network is called in papers, tables and records, such as wrn16_8."""
        return MODELS[self.family].name_of(self.options())

    @property
    def title(self) -> str:
        """The name, and what it does not tell: torchvision-resnet18."""
        return "-".join((self.name, *map(str, self._unnamed().values())))

    @model_serializer
    def _dump(self) -> dict[str, object]:
        """The name, which tells family and settings, and what it does not tell."""
        return {"name": self.name, **self._unnamed()}

    def _unnamed(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in MODELS[self.family].unnamed}


class DataConfig(Settings):
    """The images, their division and their augmentation (`data=`)."""

    name: Literal[*DATASETS]
    #: The folder that the data set's files are looked for in, and kept in.
    root: str = Field(exclude=True)
    #: Seconds that each remote source of them may take.
    timeout: float = Field(gt=0, exclude=True)
    #: Measure on the test set, or, to choose hyper-parameters, on a tenth of the training set held out.
    split: Literal["test", "val"]
    #: Train on so many images only, equally many of each class.
    train_subset: int | None = Field(default=None, ge=1)
    #: The seed of the choice of these images; null is the choice of all runs that name no seed of it.
    subset_seed: int | None = Field(default=None, ge=0, lt=2**63)
    #: The true labels, or some that people gave (CIFAR-10N), for training and held-out images; test labels are true.
    labels: Literal["clean", *HUMAN_LABELS] = Field(exclude_if=lambda value: value == "clean")
    #: The share of training and held-out labels that are drawn anew; those of the test set are always the true ones.
    label_noise: float = Field(ge=0, lt=1, exclude_if=lambda value: value == 0.0)
    #: What they are drawn from: all classes, the true one too, or the others.
    noise_over: Literal["all", "others"]
    #: The seed of these draws; the run's own has no part in them.
    noise_seed: int = Field(ge=0, lt=2**63)
    #: A random crop after padding, so a translation by up to `padding_pixels` on each axis.
    crop: bool
    #: What the padding of the crop is: zeros, or the image mirrored at its edge.
    padding: Literal["zeros", "reflect"] = Field(exclude_if=lambda value: value == "zeros")
    #: Pixels of padding on each side.
    padding_pixels: int = Field(default=PADDING, ge=1, le=16, exclude_if=lambda value: value == PADDING)
    #: A horizontal flip with probability 1/2.
    flip: bool
    #: Flip each image at random once, and all of them together in every other epoch, instead of anew in each epoch.
    alternate_flips: bool = Field(default=False, exclude_if=lambda value: not value)
    #: With the data set's mean and standard deviation.
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
    #: The α of mixup, by which pairs of a batch are mixed in parts of Beta(α, α); 0 for none.
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
                f"data.label_noise={self.label_noise} draws none of the {self.spec.train_images} training labels of "
                f"{self.spec.title} anew: raise it, or set it to 0"
            )
        if self.spec.files is not None:
            self._check_root()

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the settings that can change the result: not those of label noise or a subset where there is none."""
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
                f"data.labels={self.labels} with data={self.name}: people's labels are CIFAR-10's alone. "
                "Choose data=cifar10, or data.labels=clean"
            )
        if self.label_noise:
            raise ConfigError(
                f"data.labels={self.labels} with data.label_noise={self.label_noise}: labels can be wrong in one way "
                "only. Set data.label_noise=0, or data.labels=clean"
            )

    def _check_root(self) -> None:
        root = self.folder
        if root.exists() and not root.is_dir():
            raise ConfigError(f"data.root={self.root} is not a folder")
        if not root.exists() and not root.absolute().parent.is_dir():
            raise ConfigError(f"data.root={self.root} cannot be made: there is no folder {root.absolute().parent}")

    @property
    def spec(self) -> DatasetSpec:
        """What is known of the data set."""
        return DATASETS[self.name]

    @property
    def train_images(self) -> int:
        """How many images a run trains on."""
        return self.train_subset or self.spec.available(self.split)

    @property
    def folder(self) -> Path:
        """`root` as a path."""
        return path_of("data.root", self.root)


class ScheduleConfig(Settings):
    """The learning rate over time (`schedule=`)."""

    name: Literal["step", "cosine", "linear", "constant", "triangular"]
    #: The rate first rises linearly for so many epochs.
    warmup_epochs: float = Field(ge=0)
    #: The fraction of the rate from which it rises.
    warmup_start: float = Field(ge=0, le=1, exclude_if=lambda value: value == 0.0)
    #: How often the rate changes, in the warm-up too.
    every: Literal["step", "epoch"]
    #: Where cosine and linear end; η_min of a radius proportional to the learning rate.
    lr_min: float = Field(ge=0)
    #: For the step schedule: fractions of the run at which the rate is multiplied by `gamma`.
    milestones: Items[Annotated[float, Field(gt=0, lt=1)]] | None = None
    gamma: float | None = Field(default=None, gt=0, le=1)
    #: For the triangular schedule: the fraction of the rate at which it starts.
    start: float | None = Field(default=None, gt=0, le=1)
    #: For the triangular schedule: the fraction of the steps after which the whole rate is reached.
    peak: float | None = Field(default=None, gt=0, lt=1)
    #: For the triangular schedule: the fraction of the rate towards which it falls at the end of the run.
    end: float | None = Field(default=None, ge=0, lt=1)

    def model_post_init(self, context: Any) -> None:
        own = {"step": ("milestones", "gamma"), "triangular": ("start", "peak", "end")}
        optional = {name: getattr(self, name) for names in own.values() for name in names}
        _belonging("schedule", optional, own.get(self.name, ()), self.name)

        if self.name == "triangular" and (self.warmup_epochs or self.lr_min or self.every == "epoch"):
            raise ConfigError(
                "schedule=triangular has a rise and an end of its own, and changes in every step: leave "
                "schedule.warmup_epochs and schedule.lr_min at 0 and schedule.every at step; use schedule.peak and "
                "schedule.end"
            )


class TrainerConfig(Settings):
    """How long, how large, how precise, and on what."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    #: Examples in a forward pass, where a whole batch takes too much memory; one perturbation for all of them.
    micro_batch_size: int | None = Field(default=None, ge=1)
    eval_batch_size: int = Field(ge=1)
    #: Epochs between evaluations; the last epoch is always evaluated.
    eval_every: int = Field(ge=1)
    #: Probability taken from the true class.
    label_smoothing: float = Field(ge=0, lt=1)
    #: What is minimised over a batch. With "sum" the gradients are as many times as large as a batch has examples;
    #: losses in records stay means.
    loss_reduction: Literal["mean", "sum"] = Field(default="mean", exclude_if=lambda value: value == "mean")
    #: Parameters, by their full name in the network, that are trained for `freeze_after` epochs only.
    freeze: Items[str] | None = None
    freeze_after: int | None = Field(default=None, ge=1)
    #: Classes that it is spread over: the K − 1 others, as the SAM example has it, or all K, as torch has it.
    smoothing_over: Literal["others", "all"]
    device: Literal["auto", "cpu", "cuda"]
    #: Precision of the forward pass, by autocast; parameters are always float32. Auto: on CUDA bf16 where the hardware
    #: has it, on the CPU the faster of bf16 and fp32 as measured here. With fp16 the loss is scaled, as much as its
    #: gradients allow.
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    #: Auto: a bar in a terminal, else a plain line for each epoch.
    progress: Literal["auto", "bar", "plain", "none"] = Field(exclude=True)
    #: How steps are taken: one operation after another, with forward and loss compiled, or (on CUDA) compiled and whole
    #: steps captured in a CUDA graph. Auto: on CUDA the last of these that the method allows, on the CPU the first.
    engine: Literal["auto", "eager", "compile", "graph"] = Field(exclude=True)
    #: Leave out the images of an epoch that do not fill a batch; else they are a smaller one.
    drop_last: bool = Field(exclude=True)
    #: On CUDA, kernels that give the same bits for the same input, so that an interrupted run ends as it would have;
    #: slower. On the CPU that is so in any case.
    deterministic: bool = Field(exclude=True)
    #: Steps that may be skipped because a gradient was not finite, 200 if not set; after an epoch with more of them the
    #: run has diverged.
    max_skipped: int | None = Field(default=None, ge=0)
    #: After so many the run saves a checkpoint and ends; the same command goes on from there.
    max_minutes: float | None = Field(default=None, gt=0, exclude=True)
    #: Epochs between checkpoints; one is saved at the end in any case.
    checkpoint_every: int | None = Field(default=None, ge=1, exclude=True)
    #: Minutes between checkpoints, in the middle of an epoch too.
    checkpoint_minutes: float | None = Field(default=None, gt=0, exclude=True)
    #: At the run's end, measure the test error with test-time augmentation too, as `test_error_tta` of the record.
    test_time_augmentation: bool = Field(default=False, exclude=True)
    #: Run again what is finished; the old record and run folder are moved aside.
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
                "each other: set both, names of parameters and a number of epochs, or neither"
            )


class PathsConfig(Settings):
    """Where files go."""

    #: Checkpoints and whatever else a run needs while it lasts.
    runs: str = Field(exclude=True)
    #: Records of finished runs, and the tables made from them.
    results: str = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        for name in ("runs", "results"):
            path = path_of(f"paths.{name}", getattr(self, name))
            if not getattr(self, name) or any(p.exists() and not p.is_dir() for p in (path, *path.parents)):
                raise ConfigError(f"paths.{name}={getattr(self, name)} is not a folder, nor can it become one")

    def runs_of(self, experiment: str) -> Path:
        """The folder of an experiment's runs."""
        return path_of("paths.runs", self.runs) / experiment

    def results_of(self, experiment: str) -> Path:
        """The folder of an experiment's records and tables."""
        return path_of("paths.results", self.results) / experiment


class Config(Settings):
    """Everything that a run is made from."""

    #: The preset's name (`experiment=`), under which records and tables are kept.
    experiment: str = Field(exclude=True)
    #: Decides initial weights, order and augmentation.
    seed: int = Field(ge=0, lt=2**32)
    optimizer: OptimizerConfig
    averaging: AveragingConfig
    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    analysis: AnalysisConfig = Field(exclude=True)
    #: A Python file whose methods are offered too; named on the command line only.
    plugin: str | None = Field(default=None, exclude=True)
    logger: LoggerConfig = Field(exclude=True)
    paths: PathsConfig = Field(exclude=True)

    def model_post_init(self, context: Any) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*", self.experiment):
            raise ConfigError(f"experiment={self.experiment} is no name for a folder: use letters, digits, '_' and '-'")
        if self.schedule.warmup_epochs >= self.trainer.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs} leaves nothing of "
                f"trainer.epochs={self.trainer.epochs}; make it smaller"
            )
        if METHODS[self.optimizer.name].averages and self.averaging.name != "swa":
            raise ConfigError(
                f"averaging={self.averaging.name} is not what {self.optimizer.name} is: it needs averaging=swa"
            )
        if self.averaging.name == "lookahead" and BASES[self.optimizer.base.name].averages:
            raise ConfigError(
                f"averaging=lookahead sets the weights to their mean, and optimizer/base={self.optimizer.base.name} "
                "keeps an average of its own: choose another base, or averaging=none"
            )
        chooses = METHODS[self.optimizer.name].selects_examples
        if self.trainer.micro_batch_size is not None and (self.optimizer.m or chooses):
            raise ConfigError(
                f"trainer.micro_batch_size={self.trainer.micro_batch_size} is one perturbation for a whole batch: it "
                f"does not go with {self.optimizer.name if chooses else 'optimizer.m'}: remove one of them"
            )
        if self.trainer.drop_last and self.data.train_images < self.trainer.batch_size:
            raise ConfigError(
                f"trainer.drop_last=true leaves nothing of {self.data.train_images} training images: "
                f"trainer.batch_size={self.trainer.batch_size} is more"
            )
        if not self.analysis.is_off:
            self.analysis.check_images(self.data.spec.classes, self.data.train_images)
        most = (self.data.spec.classes - 1) / self.data.spec.classes
        if self.trainer.smoothing_over == "others" and self.trainer.label_smoothing > most:
            raise ConfigError(
                f"trainer.label_smoothing={self.trainer.label_smoothing} leaves the true class less than each other; "
                f"with trainer.smoothing_over=others and data={self.data.name} it must be at most {most}"
            )
        if self.schedule.lr_min >= self.optimizer.base.lr:
            raise ConfigError(
                f"schedule.lr_min={self.schedule.lr_min} must be below optimizer.base.lr={self.optimizer.base.lr}"
            )

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        images = self.data.train_images
        size = self.trainer.batch_size
        return self.trainer.epochs * (images // size if self.trainer.drop_last else math.ceil(images / size))


def _names_of_options() -> list[str]:
    """What methods have of their own; the same name in two of them may have two meanings."""
    return list(dict.fromkeys(name for entry in METHODS.values() for name in entry.option_names))


def path_of(key: str, text: str) -> Path:
    """Return a setting's path.

    Raises:
        ConfigError: it begins with a home folder that nobody has.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}={text} names nobody's home folder") from error


def _belonging(
    group: str,
    optional: Mapping[str, Any],
    own: tuple[str, ...],
    owner: str,
    may_be_null: tuple[str, ...] = (),
) -> None:
    """Check that exactly the owner's own of the optional settings have a value, but for those that may be null."""
    for name, value in sorted(optional.items()):
        if value is not None and name not in own:
            raise ConfigError(
                f"{group}.{name}={value} has no meaning for {owner}, "
                f"which has {', '.join(own) if own else 'no such settings'}; remove it or choose another"
            )
        if value is None and name in own and name not in may_be_null:
            raise ConfigError(f"{group}.{name} has no value, and {owner} needs one; set {group}.{name}=…")
