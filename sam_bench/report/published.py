"""Published test errors on CIFAR-10: facts to set a measurement beside, each with what must be known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ALL = {
    "data.name": "cifar10",
    "data.split": "test",
    "data.train_subset": None,
    "data.crop": True,
    "data.flip": True,
    "data.normalise": True,
    "trainer.epochs": 200,
    "trainer.batch_size": 128,
    "optimizer.base.name": "sgd",
    "optimizer.base.lr": 0.1,
    "optimizer.base.momentum": 0.9,
    "optimizer.base.weight_decay": 5e-4,
    "optimizer.base.nesterov": False,
}
_STEP = {"schedule.name": "step", "schedule.milestones": [0.3, 0.6, 0.8], "schedule.factor": 0.2}
_SAM_EXAMPLE = _ALL | {"data.cutout": True, "trainer.label_smoothing": 0.1, "schedule.warmup_epochs": 0.0}
_LOGS = _ALL | {"data.cutout": True, "trainer.label_smoothing": 0.0}
_CLOSURE = _ALL | {"trainer.label_smoothing": 0.0, "schedule.name": "cosine", "schedule.warmup_epochs": 5.0}


@dataclass(frozen=True)
class Published:
    """A test error in percent.

    Args:
        protocol: the settings that are known of it, by key.
        rho: its radius, where that is known.
    """

    method: str
    model: str
    error: float
    source: str
    caveat: str
    protocol: Mapping[str, Any]
    rho: float | None = None

    def __hash__(self) -> int:
        return hash((self.method, self.model))


def _example(method: str, error: float, rho: float | None, source: str = "the SAM example", **other: Any) -> Published:
    caveat = "one run, best or last epoch unknown"
    if rho is not None:
        caveat += ", BatchNorm statistics changed in both passes"
    if other:
        caveat = f"{other['schedule.name']} learning rate, {caveat}"
    return Published(method, "wrn22_8", error, source, caveat, _SAM_EXAMPLE | (other or _STEP), rho)


def _logs(method: str, model: str, error: float, text: str) -> Published:
    return Published(method, model, error, "public multi-seed logs", f"cutout, last epoch, {text}", _LOGS)


def _closure(method: str, model: str, error: float) -> Published:
    source, caveat = "a closure-style example", "cosine with 5 warm-up epochs, no smoothing, best epoch"
    return Published(method, model, error, source, caveat, _CLOSURE)


PUBLISHED = (
    _example("sgd", 3.20, None),
    _example("sam", 2.86, 0.05),
    _example("asam", 2.55, 2.0),
    _example("asam_official", 2.37, 0.5, "the SAM example's network with the authors' ASAM"),
    _example("gsam", 2.45, 2.0, "the GSAM example", **{"schedule.name": "cosine"}),
    _logs("sgd", "wrn16_8", 3.98, "plain cross-entropy, mean of 5 seeds ± 0.15"),
    _logs("sam", "wrn16_8", 3.42, "plain cross-entropy, mean of 5 seeds ± 0.11"),
    _logs("sgd", "wrn28_10", 3.20, "mean of 5 seeds ± 0.11"),
    _logs("sam", "wrn28_10", 2.76, "mean of 5 seeds ± 0.08"),
    _logs("sgd", "pyramidnet110", 3.05, "mean of 2 seeds"),
    _logs("sam", "pyramidnet110", 2.58, "mean of 2 seeds"),
    _closure("sgd", "resnet20", 6.8),
    _closure("sam", "resnet20", 6.5),
    _closure("sgd", "wrn28_2", 4.6),
    _closure("sam", "wrn28_2", 4.2),
    _closure("sgd", "resnext29_32x4d", 4.2),
    _closure("sam", "resnext29_32x4d", 3.6),
)


def published(method: str, model: str) -> Published | None:
    """The figure for a method, on this network if there is one, else on the SAM example's."""
    figures = {(figure.method, figure.model): figure for figure in PUBLISHED}
    return figures.get((method, model)) or figures.get((method, "wrn22_8"))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config with its keys as the command line has them."""
    found = {}
    for key, item in config.items():
        found |= flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {prefix + key: item}
    return found


def differences(config: Mapping[str, Any], figure: Published | None) -> list[str]:
    """Why a run of this config cannot be compared with a published figure, as far as the figure's protocol is known.

    Args:
        config: as in a record.
    """
    if figure is None:
        return ["there is no figure for this method"]
    expected = {"model.name": figure.model, **figure.protocol}
    if figure.rho is not None:
        expected["optimizer.rho"] = figure.rho
    values, found = flat(config), []
    for key, usual in expected.items():
        value = values.get(key)
        absent = value is None and usual is not None  # under another choice, which is itself a difference
        if value != usual and not absent:
            found.append(f"{key} is {value}, not {usual}" if usual is not None else f"{key} is {value}")
    return found
