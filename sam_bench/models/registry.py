"""The families of networks. Reading this costs no import of torch: a network's code is loaded when it is built."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam_bench.errors import ConfigError
from sam_bench.lookup import load, lookup


@dataclass(frozen=True)
class Depths:
    """The depths that a family of networks has, or the values of another option that it has instead."""

    rule: str
    """In words."""
    known: Sequence[int]
    #: The option that holds it.
    option: str = "depth"


def _every(step: int, offset: int) -> Depths:
    """Return the depths `step` * n + `offset`, for n from 1 on."""
    return Depths(f"{step}n + {offset}", range(step + offset, 10_000, step))


@dataclass(frozen=True)
class ModelEntry:
    """What is known of a family of networks without its code."""

    family: str
    """As in `model.family=`."""
    implementation: str
    """What builds a member, from `classes` and its options: "module:callable"."""
    summary: str
    name: str
    """What a member is called, with its options in braces."""
    options: tuple[str, ...]
    """The settings that a member has."""
    depths: Depths | None = None
    short_names: Mapping[str, str] = field(default_factory=dict)
    """What the names of some members are shortened to."""

    def name_of(self, options: Mapping[str, Any]) -> str:
        """Return what the member with these options is called."""
        name = self.name.format(**options)
        return self.short_names.get(name, name)

    def options_of(self, name: str) -> dict[str, int] | None:
        """Return the options that a member's name tells; None where it is none of this family's names."""
        long = next((full for full, short in self.short_names.items() if short == name), name)
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(self.name))
        found = re.fullmatch(pattern, long)
        if found is None:
            return None
        options = {option: int(text) for option, text in found.groupdict().items()}
        return None if self.depths is not None and options[self.depths.option] not in self.depths.known else options

    @property
    def unnamed(self) -> tuple[str, ...]:
        """The options that a member's name does not tell."""
        return tuple(option for option in self.options if f"{{{option}}}" not in self.name)

    def check(self, options: Mapping[str, Any]) -> None:
        """Find out whether there is a member with these options.

        Raises:
            ConfigError: there is none.
        """
        missing = [name for name in self.options if options.get(name) is None]
        if missing:
            raise ConfigError(f"{self.family} needs {' and '.join(missing)}")
        if self.depths is None:
            return
        option = self.depths.option
        depth = options[option]
        if depth not in self.depths.known:
            nearest = min(self.depths.known, key=lambda known: abs(known - depth))
            raise ConfigError(
                f"model.{option}={depth} is no {option} of {self.family}: it must be {self.depths.rule}; "
                f"the nearest is {nearest}"
            )


_ENTRIES = (
    ModelEntry(
        "wide_resnet",
        "sam_bench.models.wide_resnet:WideResNet",
        "wide residual networks (arXiv:1605.07146)",
        "wrn{depth}_{width}",
        ("depth", "width"),
        _every(6, 4),
    ),
    ModelEntry(
        "resnet",
        "sam_bench.models.resnet:cifar_resnet",
        "residual networks for CIFAR, parameter-free shortcuts (arXiv:1512.03385, section 4.2)",
        "resnet{depth}",
        ("depth",),
        _every(6, 2),
    ),
    ModelEntry(
        "resnet_imagenet",
        "sam_bench.models.resnet:imagenet_resnet",
        "residual networks for ImageNet, with a CIFAR stem (arXiv:1512.03385, table 1)",
        "resnet{depth}",
        ("depth",),
        Depths("18 or 34", (18, 34)),
    ),
    ModelEntry(
        "resnext",
        "sam_bench.models.resnet:resnext",
        "residual networks with grouped convolutions (arXiv:1611.05431, section 5.3)",
        "resnext{depth}_{groups}x{group_width}d",
        ("depth", "groups", "group_width"),
        _every(9, 2),
    ),
    ModelEntry(
        "pyramidnet",
        "sam_bench.models.pyramidnet:basic_pyramidnet",
        "pyramidal residual networks, basic blocks (arXiv:1610.02915)",
        "pyramidnet{depth}_{alpha}",
        ("depth", "alpha"),
        _every(6, 2),
        {"pyramidnet110_270": "pyramidnet110"},
    ),
    ModelEntry(
        "pyramidnet_bottleneck",
        "sam_bench.models.pyramidnet:bottleneck_pyramidnet",
        "pyramidal residual networks, bottleneck blocks (arXiv:1610.02915)",
        "pyramidnet{depth}_{alpha}_bottleneck",
        ("depth", "alpha"),
        _every(9, 2),
        {"pyramidnet272_200_bottleneck": "pyramidnet272"},
    ),
    ModelEntry(
        "airbench",
        "sam_bench.models.airbench:Airbench",
        "the small networks of airbench94 and airbench96 (arXiv:2404.00498)",
        "airbench{accuracy}",
        ("accuracy",),
        Depths("94 or 96", (94, 96), "accuracy"),
    ),
    ModelEntry(
        "torchvision",
        "sam_bench.models.torchvision:build",
        "the classifiers of torchvision that can work on 32×32 images",
        "torchvision",
        ("arch",),
    ),
)

MODELS = {entry.family: entry for entry in _ENTRIES}


def member(name: str) -> tuple[str, dict[str, int]]:
    """Return the family of the network that is called so, and the options that its name tells.

    Raises:
        ConfigError: there is none.
    """
    for entry in MODELS.values():
        if (options := entry.options_of(name)) is not None:
            return entry.family, options
    raise ConfigError(f"no network is called {name}")


def model(family: str, classes: int, **options: Any):
    """Build a network for 32×32 images, on the CPU, from torch's global generator.

    Args:
        options: those of the family's entry, such as `depth`.

    Raises:
        ConfigError: there is no such network, or it cannot be built with these options.
    """
    entry = lookup(MODELS, family, "model.family")
    entry.check(options)
    return load(entry.implementation)(classes=classes, **options)
