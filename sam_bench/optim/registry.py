"""The methods and base optimizers by name.

Importing this does not import torch. A method's code is loaded when its class is asked for, and what the class says of
itself (`Method`'s flags, its constructor's parameters) is not repeated here.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sam_bench.lookup import load, lookup
from sam_bench.optim.options import Option

if TYPE_CHECKING:
    from sam_bench.optim.sharpness_aware import SharpnessAware


@dataclass(frozen=True)
class MethodEntry:
    """The description of a method, which is known without importing its code."""

    #: The value of `optimizer=`.
    name: str
    #: The name that tables print.
    title: str
    #: The class, or its location "module:name" with the module in `sam_bench.optim.methods`.
    implementation: str | type
    summary: str
    paper: str
    #: Forward-backward passes per step, as tables print them; "1" if, and only if, no step has a second pass.
    passes: str = "2"
    #: The method's own hyper-parameters: keyword arguments of its class, and settings under `optimizer.`.
    options: tuple[Option, ...] = ()
    #: True if the method has a radius.
    perturbs: bool = True
    #: True if weight averaging is part of the method.
    averages: bool = False
    #: True if the method needs a base optimizer with momentum.
    needs_momentum: bool = False
    #: The reason why a step cannot be captured in a CUDA graph, if the class's flags do not say it; else empty.
    not_capturable: str = ""
    #: Radius and options of a method without a file in `conf/optimizer`.
    defaults: tuple[tuple[str, Any], ...] = ()
    #: The source of a method of a plugin: a package and its version, or a file and its digest. Else empty.
    package: str = ""

    @property
    def location(self) -> str:
        """Return the location of the class of one of sam_bench's own methods, as `lookup.load` takes it."""
        return f"sam_bench.optim.methods.{self.implementation}"

    @property
    def class_name(self) -> str:
        """Return the name of the method's class."""
        if isinstance(self.implementation, str):
            return self.implementation.partition(":")[2]
        return self.implementation.__name__

    @property
    def cls(self) -> "type[SharpnessAware]":
        """Return the method's class; import its code now."""
        cls: type[SharpnessAware] = load(self.location) if isinstance(self.implementation, str) else self.implementation
        return cls

    @property
    def two_passes(self) -> bool:
        """Return True if any step has a second pass: the class's `two_passes`, known without loading the class."""
        return self.passes != "1"

    @property
    def takes_parts(self) -> bool:
        """Return True if a batch may be cut into parts with a perturbation each. Loads the class."""
        return not (self.cls.gradient_decides or self.cls.repeats_batch)

    @property
    def why_not_captured(self) -> str:
        """Return the reason why a step cannot be captured in a CUDA graph; empty if it can. Loads the class."""
        if self.cls.repeats_batch:
            return "a step repeats the previous batch, whose size may differ"
        if self.cls.gradient_decides:
            return "the host waits for the gradient, to know whether there is a second pass"
        return self.not_capturable

    def brought_by(self, package: str) -> "MethodEntry":
        """Return a copy whose `package` is this one."""
        return replace(self, package=package)

    @property
    def option_names(self) -> tuple[str, ...]:
        """Return the names of the method's own hyper-parameters."""
        return tuple(option.name for option in self.options)

    def check(self, **values: Any) -> None:
        """Check values of the method's options, as the constructor of its class does.

        Raises:
            TypeError: a value is of the wrong type.
            ValueError: a value is out of range.
        """
        options = dict(zip(self.option_names, self.options, strict=True))
        for name, value in values.items():
            options[name].check(value)


#: An option of SAM's class, and of most classes derived from it.
ADAPTIVE = Option("adaptive", bool, "whether the perturbation is scaled by |w|, as in ASAM")

_ENTRIES = (
    MethodEntry(
        "sgd",
        "SGD",
        "sgd:SGD",
        "the base optimizer alone",
        "Robbins & Monro (1951)",
        passes="1",
        perturbs=False,
    ),
    MethodEntry(
        "sam", "SAM", "sam:SAM", "perturbation of length ρ along the gradient", "Foret et al. (2021), arXiv:2010.01412"
    ),
    MethodEntry(
        "asam",
        "ASAM",
        "asam:ASAM",
        "perturbation scaled by |w|, element-wise, on every tensor",
        "Kwon et al. (2021), arXiv:2102.11600",
    ),
    MethodEntry(
        "asam_official",
        "ASAM (official)",
        "asam:OfficialASAM",
        "perturbation scaled by |w| + η on tensors named weight only",
        "Kwon et al. (2021), arXiv:2102.11600",
        options=(Option("eta", float, "offset η of |w|", ge=0),),
    ),
    MethodEntry(
        "gsam",
        "GSAM",
        "gsam:GSAM",
        "SAM or ASAM, without the part of g orthogonal to h, scaled by α",
        "Zhuang et al. (2022), arXiv:2203.08065",
        options=(
            Option("alpha", float, "α, the weight of the part of g orthogonal to h", ge=0),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "wsam",
        "WSAM",
        "wsam:WSAM",
        "sharpness h − g as a regulariser of weight γ / (1 − γ), decoupled from the base or not",
        "Yue et al. (2023), arXiv:2305.15817",
        options=(
            Option("gamma", float, "γ, which gives sharpness the weight γ / (1 − γ)", ge=0, lt=1),
            Option("decouple", bool, "whether the sharpness term is a separate step, after the base optimizer's"),
            ADAPTIVE,
            Option("max_norm", float, "greatest norm of g and of h, which are clipped separately", gt=0, optional=True),
        ),
    ),
    MethodEntry(
        "wasam",
        "WASAM",
        "wasam:WASAM",
        "SAM, and a running mean of the weights late in training",
        "Kaddour et al. (2022), arXiv:2202.00661",
        averages=True,
    ),
    MethodEntry(
        "gnp",
        "GNP",
        "wsam:GNP",
        "the mixture (1 − b) g + b h, which penalises the gradient's norm",
        "Zhao et al. (2022), arXiv:2202.03599",
        options=(
            Option("b", float, "balance: 0 is the base optimizer, 1 is SAM", ge=0, le=1),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "fsam",
        "F-SAM",
        "smoothed:FSAM",
        "perturbation along the gradient without its running average",
        "Li et al. (2024), arXiv:2403.12350",
        options=(
            Option("sigma", float, "σ, the share of the gradient's average that is subtracted", ge=0),
            Option("lmbda", float, "λ, the decay of that average", ge=0, le=1),
        ),
    ),
    MethodEntry(
        "vasso",
        "VaSSO",
        "smoothed:VaSSO",
        "perturbation along a running average of the gradient",
        "Li & Giannakis (2023), arXiv:2309.15639",
        options=(Option("theta", float, "θ, the share of the present gradient in the average; 1 is SAM", gt=0, le=1),),
    ),
    MethodEntry(
        "looksam",
        "LookSAM",
        "looksam:LookSAM",
        "SAM in every k-th step, its orthogonal part used again in the others",
        "Liu et al. (2022), arXiv:2203.02714",
        passes="1 + 1/k",
        options=(
            Option("k", int, "steps from one second pass to the next; 1 is SAM", ge=1),
            Option("alpha", float, "α, the weight of the orthogonal part that is used again", ge=0),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "sam_every_k",
        "SAM every k",
        "looksam:SAMEveryK",
        "SAM in every k-th step, the base optimizer alone in the others",
        "Liu et al. (2022), arXiv:2203.02714",
        passes="1 + 1/k",
        options=(
            Option("k", int, "steps from one second pass to the next; 1 is SAM", ge=1),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "ss_sam",
        "SS-SAM",
        "ss_sam:SSSAM",
        "SAM with probability p in each step, the base optimizer alone in the others",
        "Zhao et al. (2022), arXiv:2203.09962",
        passes="1 + p",
        options=(
            Option("p", float, "the probability that a step has a second pass; 1 is SAM", ge=0, le=1),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "ae_sam",
        "AE-SAM",
        "ae_sam:AESAM",
        "SAM in steps with a long gradient, which are more and more of them, the base optimizer alone in the others",
        "Jiang et al. (2023), arXiv:2304.14647",
        passes="1 to 2",
        options=(
            Option("delta", float, "δ, the decay of the averages of ‖g‖² and of its variance", ge=0, lt=1),
            Option("lambda_1", float, "λ₁, how many deviations above its average ‖g‖² must be, at the end"),
            Option("lambda_2", float, "λ₂, how many deviations above its average ‖g‖² must be, at the beginning"),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "msam",
        "MSAM",
        "msam:MSAM",
        "perturbation against the base's momentum, before the only gradient",
        "Becker et al. (2024), arXiv:2401.12033",
        passes="1",
        needs_momentum=True,
    ),
    MethodEntry(
        "sam_on",
        "SAM-ON",
        "sam:SAMON",
        "perturbation of the normalisation layers alone",
        "Müller et al. (2023), arXiv:2306.04226",
        options=(ADAPTIVE,),
    ),
    MethodEntry(
        "usam",
        "USAM",
        "sam:USAM",
        "perturbation ρ g, not normalised",
        "Andriushchenko & Flammarion (2022), arXiv:2206.06232",
    ),
    MethodEntry(
        "unified_sam",
        "Unified SAM",
        "unified_sam:UnifiedSAM",
        "perturbation between those of USAM and SAM",
        "Oikonomou & Loizou (2025), arXiv:2503.02225",
        options=(Option("lmbda", float, "λ, the weight of the normalised part: 0 is USAM, 1 is SAM", ge=0, le=1),),
    ),
    MethodEntry(
        "zsharp",
        "ZSharp",
        "zsharp:ZSharp",
        "in each tensor, perturbation along the elements of the gradient that stand out",
        "Yun (2025), arXiv:2505.02369",
        options=(Option("quantile", float, "Q, the share of a tensor's elements that is left out", ge=0, lt=1),),
    ),
    MethodEntry(
        "stable_sam",
        "Stable SAM",
        "stable_sam:StableSAM",
        "SAM with h at the length of g",
        "Tan et al. (2024), arXiv:2401.07250",
        options=(ADAPTIVE,),
    ),
    MethodEntry(
        "saner",
        "SANER",
        "saner:SANER",
        "SAM with less of h, by the share α, where 0 < h / g < 1",
        "Luong et al. (2024), arXiv:2411.17132",
        options=(
            Option("alpha", float, "α, the share of h that is removed where 0 < h / g < 1", ge=0, le=1),
            ADAPTIVE,
        ),
    ),
    MethodEntry(
        "sampa",
        "SAMPa",
        "sampa:SAMPa",
        "perturbation along the gradient at the step before's look ahead, so that neither pass needs the other",
        "Xie et al. (2024), arXiv:2410.10683",
        options=(Option("lmbda", float, "λ, the share of the gradient at the look ahead", ge=0, le=1),),
    ),
    MethodEntry(
        "bsam",
        "bSAM",
        "bsam:BSAM",
        "a posterior's noise before the first pass, perturbation and step scaled by its learnt variance",
        "Möllenhoff & Khan (2023), arXiv:2210.01620",
        not_capturable="the host seeds its noise anew in every step",
        options=(
            Option(
                "examples", int, "N, the number of training examples; null: the training images", ge=1, optional=True
            ),
            Option("delta", float, "δ, the weight decay", ge=0),
            Option("gamma", float, "γ, the damping of the scale s", ge=0),
            Option("beta_1", float, "β₁, the decay of the momentum", ge=0, lt=1),
            Option("beta_2", float, "β₂, the decay of the scale s", ge=0, lt=1),
        ),
    ),
    MethodEntry(
        "esam",
        "ESAM",
        "esam:ESAM",
        "perturbation of random weights, second pass on the examples whose loss rose most",
        "Du et al. (2022), arXiv:2110.03141",
        passes="4/3 + γ",
        not_capturable="the host seeds its random mask anew in every step",
        options=(
            Option("beta", float, "β, the share of the weights that is perturbed", gt=0, le=1),
            Option("gamma", float, "γ, the share of the examples that the second pass is on", gt=0, le=1),
            ADAPTIVE,
        ),
    ),
)

METHODS = {entry.name: entry for entry in _ENTRIES}


def describe_options() -> str:
    """Return the meaning and the valid values of every option of every method, in lines below the method's name."""
    lines = []
    for entry in METHODS.values():
        lines += [f"optimizer={entry.name}"] if entry.options else []
        lines += [f"  {option.name:<9} {option.meaning} ({option.rule})" for option in entry.options]
    return "\n".join(lines)


@dataclass(frozen=True)
class BaseEntry:
    """The description of a base optimizer, which is known without importing its code."""

    #: The location of its class, "module:name".
    implementation: str
    #: Settings besides learning rate and weight decay: fields of `BaseConfig`.
    options: tuple[str, ...] = ()
    #: Device types on which torch has a fused kernel for a step.
    fused: tuple[str, ...] = ()
    #: True if torch's class takes `capturable=True`, which keeps its step counters on the GPU.
    capturable: bool = False
    #: True if the optimizer has step counters.
    counts: bool = True
    #: The reason why a step cannot be captured in a CUDA graph, other than counters on the host; else empty.
    not_capturable: str = ""
    #: The extra of sam_bench that installs the optimizer's package; empty if none is needed.
    extra: str = ""
    #: True if the weights to evaluate are not those that are trained; its `eval` and `train` exchange them.
    averages: bool = False
    #: True if its momentum, if any, is kept as a direction, along which MSAM can perturb.
    momentum_buffer: bool = True

    @property
    def packages(self) -> tuple[str, ...]:
        """Return the package of the optimizer, if it is neither torch nor sam_bench."""
        return (self.implementation.partition(":")[0],) if self.extra else ()

    @property
    def captured(self) -> bool:
        """Return True if a step can be captured in a CUDA graph, with its learning rate on the GPU."""
        return not self.why_not_captured

    @property
    def why_not_captured(self) -> str:
        """Return the reason why a step cannot be captured; empty if it can."""
        on_host = self.counts and not self.capturable
        return self.not_capturable or ("torch counts its steps on the host" if on_host else "")


BASES = {
    "sgd": BaseEntry("torch.optim:SGD", ("momentum", "nesterov"), fused=("cpu", "cuda"), counts=False),
    "adam": BaseEntry("torch.optim:Adam", ("betas", "eps"), fused=("cpu", "cuda"), capturable=True),
    "adamw": BaseEntry("torch.optim:AdamW", ("betas", "eps"), fused=("cpu", "cuda"), capturable=True),
    "nadam": BaseEntry("torch.optim:NAdam", ("betas", "eps"), capturable=True),
    "radam": BaseEntry("torch.optim:RAdam", ("betas", "eps"), capturable=True),
    "adamax": BaseEntry("torch.optim:Adamax", ("betas", "eps"), capturable=True),
    "rmsprop": BaseEntry("torch.optim:RMSprop", ("momentum", "eps"), capturable=True),
    "adagrad": BaseEntry("torch.optim:Adagrad", ("eps",), fused=("cpu",)),  # torch 2.10 has it on no other
    "adafactor": BaseEntry("torch.optim:Adafactor"),
    "asgd": BaseEntry("torch.optim:ASGD", capturable=True),
    "muon": BaseEntry(
        "sam_bench.optim.muon:Muon",
        ("momentum", "nesterov", "other_lr", "betas", "eps"),
        not_capturable="torch takes Muon's learning rate from the host",
    ),
    "schedule_free": BaseEntry(
        "schedulefree:SGDScheduleFree",
        ("momentum",),
        not_capturable="its package counts its steps and computes the weights of their average on the host",
        extra="schedule-free",
        averages=True,
        momentum_buffer=False,
    ),
}


def method(name: str) -> "type[SharpnessAware]":
    """Return the class of a method; import its code now.

    Raises:
        ConfigError: there is no method of this name.
    """
    entry: MethodEntry = lookup(METHODS, name, "optimizer")
    return entry.cls


def constructor_parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class's constructor, and those that its `**options` hand on to its parents'."""
    parameters: dict[str, inspect.Parameter] = {}
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            own = inspect.signature(vars(parent)["__init__"]).parameters
            parameters = dict(own) | parameters
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return parameters
