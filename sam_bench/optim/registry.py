"""The methods by name. Reading this costs no import of torch: a method's code is loaded when it is constructed."""

from dataclasses import dataclass

from sam_bench.lookup import load, lookup


@dataclass(frozen=True)
class MethodEntry:
    """What is known of a method without its code."""

    name: str
    """As in `optimizer=name`."""
    title: str
    """As tables print it."""
    implementation: str
    """Where its class is: "module:name"."""
    summary: str
    paper: str
    passes: int
    """Forward-backward passes a step."""
    options: tuple[str, ...] = ()
    """Hyper-parameters of its own: keyword arguments of its class, fields of `OptimizerConfig`."""

    @property
    def perturbs(self) -> bool:
        """Whether it has a radius."""
        return self.passes > 1


_ENTRIES = (
    MethodEntry(
        "sgd",
        "SGD",
        "sam_bench.optim.methods.sgd:SGD",
        "the base optimizer alone",
        "Robbins & Monro (1951)",
        passes=1,
    ),
    MethodEntry(
        "sam",
        "SAM",
        "sam_bench.optim.methods.sam:SAM",
        "perturbation of length ρ along the gradient",
        "Foret et al. (2021), arXiv:2010.01412",
        passes=2,
    ),
    MethodEntry(
        "asam",
        "ASAM",
        "sam_bench.optim.methods.asam:ASAM",
        "perturbation scaled by |w|, element-wise, on every tensor",
        "Kwon et al. (2021), arXiv:2102.11600",
        passes=2,
    ),
    MethodEntry(
        "asam_official",
        "ASAM (official)",
        "sam_bench.optim.methods.asam:OfficialASAM",
        "perturbation scaled by |w| + η on tensors named weight only",
        "Kwon et al. (2021), arXiv:2102.11600",
        passes=2,
        options=("eta",),
    ),
    MethodEntry(
        "gsam",
        "GSAM",
        "sam_bench.optim.methods.gsam:GSAM",
        "SAM or ASAM, without the part of g orthogonal to h, scaled by α",
        "Zhuang et al. (2022), arXiv:2203.08065",
        passes=2,
        options=("alpha", "adaptive"),
    ),
)


@dataclass(frozen=True)
class BaseEntry:
    """What is known of a base optimizer without its code."""

    implementation: str
    options: tuple[str, ...]
    """Its settings beside learning rate and weight decay, fields of `BaseConfig`."""


BASES = {
    "sgd": BaseEntry("torch.optim:SGD", ("momentum", "nesterov")),
    "adamw": BaseEntry("torch.optim:AdamW", ("betas", "eps")),
}

METHODS = {entry.name: entry for entry in _ENTRIES}


def method(name: str, **options):
    """Construct a method by name.

    Raises:
        ConfigError: there is no such method.
    """
    return load(lookup(METHODS, name, "optimizer").implementation)(**options)
