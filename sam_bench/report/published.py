"""Published test errors on CIFAR-10: facts to set a measurement beside, each with what must be known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EPOCHS = 200


@dataclass(frozen=True)
class Published:
    """A test error in percent, after 200 epochs on the whole training set."""

    method: str
    model: str
    error: float
    source: str
    caveat: str


_COMMON = {
    ("data", "crop"): True,
    ("data", "flip"): True,
    ("trainer", "batch_size"): 128,
    ("optimizer", "base", "name"): "sgd",
    ("optimizer", "base", "lr"): 0.1,
    ("optimizer", "base", "momentum"): 0.9,
    ("optimizer", "base", "weight_decay"): 5e-4,
}
"""What all published protocols share."""

_ONE_RUN = "one run, best or last epoch unknown, BatchNorm statistics changed in both passes"
_FIVE_SEEDS = "cutout, plain cross-entropy, last epoch, mean of 5 seeds"
_CLOSURE = "cosine with 5 warm-up epochs, no smoothing, best epoch"
_SAM_EXAMPLE, _LOGS, _CLOSURE_STYLE = "the SAM example", "public multi-seed logs", "closure-style SAM example"

PUBLISHED = (
    Published("sgd", "wrn22_8", 3.20, _SAM_EXAMPLE, "one run, best or last epoch unknown"),
    Published("sam", "wrn22_8", 2.86, _SAM_EXAMPLE, _ONE_RUN),
    Published("asam", "wrn22_8", 2.55, _SAM_EXAMPLE, _ONE_RUN),
    Published("asam_official", "wrn22_8", 2.37, "the SAM example's network with the authors' ASAM", _ONE_RUN),
    Published("gsam", "wrn22_8", 2.45, "the GSAM example", f"cosine learning rate, {_ONE_RUN}"),
    Published("sgd", "wrn16_8", 3.98, _LOGS, f"{_FIVE_SEEDS}, ± 0.15"),
    Published("sam", "wrn16_8", 3.42, _LOGS, f"{_FIVE_SEEDS}, ± 0.11"),
    Published("sgd", "wrn28_10", 3.20, _LOGS, f"{_FIVE_SEEDS}, ± 0.11"),
    Published("sam", "wrn28_10", 2.76, _LOGS, f"{_FIVE_SEEDS}, ± 0.08"),
    Published("sgd", "pyramidnet110", 3.05, _LOGS, "cutout, last epoch, mean of 2 seeds"),
    Published("sam", "pyramidnet110", 2.58, _LOGS, "cutout, last epoch, mean of 2 seeds"),
    Published("sgd", "resnet20", 6.8, _CLOSURE_STYLE, _CLOSURE),
    Published("sam", "resnet20", 6.5, _CLOSURE_STYLE, _CLOSURE),
    Published("sgd", "wrn28_2", 4.6, _CLOSURE_STYLE, _CLOSURE),
    Published("sam", "wrn28_2", 4.2, _CLOSURE_STYLE, _CLOSURE),
    Published("sgd", "resnext29_32x4d", 4.2, _CLOSURE_STYLE, _CLOSURE),
    Published("sam", "resnext29_32x4d", 3.6, _CLOSURE_STYLE, _CLOSURE),
)


def published(method: str, model: str) -> Published | None:
    """The figure for a method, on this network if there is one, else on the SAM example's."""
    figures = {(figure.method, figure.model): figure for figure in PUBLISHED}
    return figures.get((method, model)) or figures.get((method, "wrn22_8"))


def differences(config: Mapping[str, Any], figure: Published | None = None) -> list[str]:
    """Why a run of this config cannot be compared with published figures, or with this one.

    Empty where data, augmentation, length, network, batch and base optimizer are as in all of them. What else there is
    to know of each figure is in its caveat.

    Args:
        config: as in a record.
    """
    data, epochs = config["data"], config["trainer"]["epochs"]
    found = []
    if data["name"] != "cifar10":
        found.append(f"{data['name']} data, not CIFAR-10")
    if data["split"] != "test":
        found.append("measured on images held out of the training set")
    if data.get("train_subset"):
        found.append(f"{data['train_subset']:,} training images")
    if epochs != EPOCHS:
        found.append(f"{epochs} epochs instead of {EPOCHS}")
    for place, usual in _COMMON.items():
        value = config[place[0]]
        for key in place[1:]:
            value = value.get(key)
        if value != usual:
            found.append(f"{'.'.join(place)}={value} instead of {usual}")
    model = config["model"]["name"]
    if model not in ({figure.model} if figure else {figure.model for figure in PUBLISHED}):
        found.append(f"{model} instead of {figure.model}" if figure else f"{model}, for which no figures are known")
    return found
