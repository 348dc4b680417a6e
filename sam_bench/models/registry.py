"""The families of networks.

Importing this does not import torch: a network's code is loaded when the network is built.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam_bench.errors import ConfigError
from sam_bench.lookup import load, lookup


@dataclass(frozen=True)
class Depths:
    """The depths that exist in a family of networks, or the values of another option instead."""

    #: The valid values in words.
    rule: str
    known: Sequence[int]
    #: The option that has these values.
    option: str = "depth"


def _make_depths(step: int, offset: int) -> Depths:
    """Return the depths `step * n + offset` for n from 1 on."""
    return Depths(f"{step}n + {offset}", range(step + offset, 10_000, step))


@dataclass(frozen=True)
class ModelEntry:
    """The description of a family of networks, which is known without importing its code."""

    #: The value of `model.family=`.
    family: str
    #: The location "module:callable" of the function or class that builds a network from `classes` and the options.
    implementation: str
    summary: str
    #: The pattern of the networks' names, with options in braces.
    name: str
    #: The settings of a network, under `model.`.
    options: tuple[str, ...]
    depths: Depths | None = None
    #: Short names of some networks, by full name.
    short_names: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, options: Mapping[str, Any]) -> str:
        """Return the name of the network with these options."""
        name = self.name.format(**options)
        return self.short_names.get(name, name)

    def options_of(self, name: str) -> dict[str, int] | None:
        """Return the options that a network's name contains, or None if the name is not one of this family."""
        full_name = next((full for full, short in self.short_names.items() if short == name), name)
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(self.name))
        match = re.fullmatch(pattern, full_name)
        if match is None:
            return None
        options = {option: int(text) for option, text in match.groupdict().items()}
        return None if self.depths is not None and options[self.depths.option] not in self.depths.known else options

    @property
    def unnamed(self) -> tuple[str, ...]:
        """Return the options that a network's name does not contain."""
        return tuple(option for option in self.options if f"{{{option}}}" not in self.name)

    def check(self, options: Mapping[str, Any]) -> None:
        """Check that the family has a network with these options.

        Raises:
            ConfigError: an option is missing, or its value is not a depth of this family.
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
                f"model.{option}={depth} is not a valid {option} of {self.family}: it must be {self.depths.rule}; "
                f"the nearest is {nearest}"
            )


_ENTRIES = (
    ModelEntry(
        "wide_resnet",
        "sam_bench.models.wide_resnet:WideResNet",
        "wide residual networks (arXiv:1605.07146)",
        "wrn{depth}_{width}",
        ("depth", "width"),
        _make_depths(6, 4),
    ),
    ModelEntry(
        "resnet",
        "sam_bench.models.resnet:cifar_resnet",
        "residual networks for CIFAR, parameter-free shortcuts (arXiv:1512.03385, section 4.2)",
        "resnet{depth}",
        ("depth",),
        _make_depths(6, 2),
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
        _make_depths(9, 2),
    ),
    ModelEntry(
        "pyramidnet",
        "sam_bench.models.pyramidnet:basic_pyramidnet",
        "pyramidal residual networks, basic blocks (arXiv:1610.02915)",
        "pyramidnet{depth}_{alpha}",
        ("depth", "alpha"),
        _make_depths(6, 2),
        {"pyramidnet110_270": "pyramidnet110"},
    ),
    ModelEntry(
        "pyramidnet_bottleneck",
        "sam_bench.models.pyramidnet:bottleneck_pyramidnet",
        "pyramidal residual networks, bottleneck blocks (arXiv:1610.02915)",
        "pyramidnet{depth}_{alpha}_bottleneck",
        ("depth", "alpha"),
        _make_depths(9, 2),
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
    """Return the family of a network and the options that its name contains.

    Args:
        name: the network's name, such as "wrn16_8".

    Raises:
        ConfigError: no family has a network of this name.
    """
    for entry in MODELS.values():
        if (options := entry.options_of(name)) is not None:
            return entry.family, options
    raise ConfigError(f"no network is called {name}")


def model(family: str, classes: int, **options: Any):
    """Build a network for 32×32 images, on the CPU, with initial weights from torch's global generator.

    Args:
        options: the options of the family, such as `depth`.

    Raises:
        ConfigError: there is no such family, or it has no network with these options.
    """
    entry = lookup(MODELS, family, "model.family")
    entry.check(options)
    return load(entry.implementation)(classes=classes, **options)
