"""The settings of the optimizer: base, method, and averages of the weights."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from sam_bench.config.fields import Items, Settings, check_applicable
from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup
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
        check_applicable("optimizer.base", optional, BASES[self.name].options, self.name)

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
        check_applicable("optimizer", optional, needed + method.option_names, method.name, may_be_null)

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
        check_applicable("averaging", optional, own[self.name], self.name)

        if self.starts is not None and (not self.starts or len(set(self.starts)) < len(self.starts)):
            raise ConfigError(f"averaging.starts={list(self.starts)} must be one or more different fractions")


def _option_names() -> list[str]:
    """Return the names of all methods' own options; two methods may use one name for different options."""
    return list(dict.fromkeys(name for entry in METHODS.values() for name in entry.option_names))
