"""The settings of training: the learning rate over time, length, precision and device."""

from typing import Annotated, Any, Literal

from pydantic import Field

from sam_bench.config.fields import Items, Settings, check_applicable
from sam_bench.errors import ConfigError


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
        check_applicable("schedule", optional, own.get(self.name, ()), self.name)

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
