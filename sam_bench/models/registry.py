"""The networks by name. Reading this costs no import of torch: a network's code is loaded when it is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sam_bench.lookup import load, lookup


@dataclass(frozen=True)
class ModelEntry:
    """What is known of a network without its code."""

    name: str
    """As in `model=name`."""
    implementation: str
    """What builds it: "module:callable"."""
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """The arguments it is built with."""


def _wide(name: str, depth: int, width: int, summary: str = "") -> ModelEntry:
    summary = summary or f"WRN-{depth}-{width} (arXiv:1605.07146)"
    return ModelEntry(name, "sam_bench.models.wide_resnet:WideResNet", summary, {"depth": depth, "width": width})


def _cifar(name: str, depth: int) -> ModelEntry:
    summary = f"ResNet-{depth} for CIFAR, parameter-free shortcuts (arXiv:1512.03385)"
    return ModelEntry(name, "sam_bench.models.resnet:cifar_resnet", summary, {"depth": depth})


def _pyramid(name: str, depth: int, alpha: int, bottleneck: bool) -> ModelEntry:
    summary = f"PyramidNet-{depth}, α {alpha}, {'bottleneck' if bottleneck else 'basic'} blocks (arXiv:1610.02915)"
    options = {"depth": depth, "alpha": alpha, "bottleneck": bottleneck}
    return ModelEntry(name, "sam_bench.models.pyramidnet:PyramidNet", summary, options)


_ENTRIES = (
    _wide("wrn16_8", 16, 8),
    _wide("wrn22_8", 22, 8, "the SAM example's network: called WRN-16-8 there, but of 22 layers"),
    _wide("wrn16_4", 16, 4),
    _wide("wrn28_2", 28, 2),
    _wide("wrn28_10", 28, 10),
    _cifar("resnet8", 8),
    _cifar("resnet20", 20),
    _cifar("resnet56", 56),
    ModelEntry("resnet18", "sam_bench.models.resnet:resnet18", "ResNet-18 with a CIFAR stem (arXiv:1512.03385)"),
    ModelEntry(
        "resnext29_32x4d",
        "sam_bench.models.resnet:resnext29",
        "ResNeXt-29, 32×4d (arXiv:1611.05431)",
        {"groups": 32, "group_width": 4},
    ),
    _pyramid("pyramidnet110", 110, 270, bottleneck=False),
    _pyramid("pyramidnet272", 272, 200, bottleneck=True),
    ModelEntry("torchvision", "sam_bench.models.torchvision:build", "any classifier of torchvision, `model.arch`"),
)

MODELS = {entry.name: entry for entry in _ENTRIES}


def model(name: str, **options: Any):
    """Build a network by name, for 32×32 images and ten classes, on the CPU, from torch's global generator.

    Raises:
        ConfigError: there is no such network, or it cannot be built with these options.
    """
    entry = lookup(MODELS, name, "model")
    return load(entry.implementation)(**entry.options, **options)
