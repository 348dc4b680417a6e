"""Published test errors on CIFAR-10 to compare measurements with, each with its protocol and caveats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam_bench.report.markup import markdown
from sam_bench.report.rows import Row, title_of
from sam_bench.runs.record import flat

TABLE = ["method", "network", "published %", "from", "what is to be known of it", "here %"]

#: Values of settings that a record leaves out; it has these settings only if they are different.
LEFT_OUT = {
    "data.padding": "zeros",
    "data.padding_pixels": 4,
    "data.alternate_flips": False,
    "data.cutout_size": 16,
    "data.cutout_probability": 0.5,
    "data.cutout_inside": False,
    "data.label_noise": 0.0,
    "data.labels": "clean",
    "data.mixup": 0.0,
    "optimizer.start_at": 0.0,
    "optimizer.base.norm_bias_lr_factor": 1.0,
    "schedule.warmup_start": 0.0,
    "trainer.loss_reduction": "mean",
    "trainer.drop_last": False,
}

# Protocols, from what all figures share to what single sources add.
_ALL = {
    "data.name": "cifar10",
    "data.split": "test",
    "data.train_subset": None,
    "data.mixup": 0.0,
    "data.crop": True,
    "data.flip": True,
    "data.normalise": True,
    "trainer.epochs": 200,
    "trainer.batch_size": 128,
    "optimizer.start_at": 0.0,
    "optimizer.base.name": "sgd",
    "optimizer.base.lr": 0.1,
    "optimizer.base.momentum": 0.9,
    "optimizer.base.weight_decay": 5e-4,
    "optimizer.base.nesterov": False,
}
_LOGS = _ALL | {"data.cutout": True, "trainer.label_smoothing": 0.0}
_CODE = _ALL | {"trainer.drop_last": False, "optimizer.m": 128, "optimizer.clip_norm": None}
_SAM_EXAMPLE = _CODE | {
    "data.padding": "zeros",
    "data.cutout": True,
    "trainer.label_smoothing": 0.1,
    "trainer.smoothing_over": "others",
}
_STEP = {
    "schedule.name": "step",
    "schedule.milestones": [0.3, 0.6, 0.8],
    "schedule.gamma": 0.2,
    "schedule.warmup_epochs": 0.0,
}
_CLOSURE = _CODE | {
    "data.padding": "reflect",
    "data.cutout": False,
    "trainer.label_smoothing": 0.0,
    "schedule.name": "cosine",
    "schedule.lr_min": 0.0,
    "schedule.every": "epoch",
    "schedule.warmup_epochs": 5.0,
    "schedule.warmup_start": 0.25,
}


_AIRBENCH94 = {
    "data.name": "cifar10",
    "data.split": "test",
    "data.train_subset": None,
    "data.mixup": 0.0,
    "data.crop": True,
    "data.padding": "reflect",
    "data.padding_pixels": 2,
    "data.flip": True,
    "data.alternate_flips": True,
    "data.normalise": True,
    "data.cutout": False,
    "trainer.epochs": 10,
    "trainer.batch_size": 1024,
    "trainer.loss_reduction": "sum",
    "trainer.label_smoothing": 0.2,
    "trainer.smoothing_over": "all",
    "trainer.freeze": ["whitening.bias"],
    "trainer.freeze_after": 3,
    "averaging.name": "lookahead",
    "schedule.name": "triangular",
    "optimizer.start_at": 0.0,
    "optimizer.base.name": "sgd",
    "optimizer.base.lr": 0.00146484375,
    "optimizer.base.weight_decay": 1.3623652173913041,
    "optimizer.base.norm_bias_lr_factor": 64.0,
    "optimizer.base.momentum": 0.85,
    "optimizer.base.nesterov": True,
}


@dataclass(frozen=True, eq=False)
class Published:
    """A published test error in percent.

    Args:
        with_tta: the error is with test-time augmentation.
        caveat: what is unknown about it, or cannot be reproduced here.
        protocol: its known settings, by key.
        overrides: the command-line overrides of a run with its protocol.
    """

    method: str
    model: str
    error: float
    source: str
    caveat: str
    protocol: Mapping[str, Any]
    overrides: str
    with_tta: bool = False

    @property
    def command(self) -> str:
        """Return the command that trains with the same protocol, as far as it is known."""
        return f"python -m sam_bench {self.overrides} optimizer={self.method}"


def _radius(rho: float) -> dict[str, Any]:
    return {"optimizer.rho": rho, "optimizer.rho_schedule": "constant"}


def _example(
    method: str, error: float, own: Mapping[str, Any], *caveats: str, source: str = "the SAM example"
) -> Published:
    caveat = ", ".join(("one run, best or last epoch unknown", *caveats))
    preset = "gsam_example" if method == "gsam" else "sam_example"
    return Published(method, "wrn22_8", error, source, caveat, _SAM_EXAMPLE | own, f"experiment={preset}")


def _logs(method: str, model: str, error: float, text: str) -> Published:
    overrides = f"experiment=wrn16_8 model={model} trainer.label_smoothing=0"
    return Published(method, model, error, "public multi-seed logs", f"cutout, last epoch, {text}", _LOGS, overrides)


def _closure(method: str, model: str, error: float) -> Published:
    own = {"optimizer.batchnorm": "both"} | _radius(0.05) if method == "sam" else {}
    caveat = "best epoch, pixels divided by 0.2023, 0.1994 and 0.2010"
    if model == "resnet20":
        caveat += ", shortcuts with parameters"
    overrides = f"experiment=closure_example model={model}"
    return Published(method, model, error, "a closure-style example", caveat, _CLOSURE | own, overrides)


_BOTH = "BatchNorm statistics changed in both passes"

PUBLISHED = (
    _example("sgd", 3.20, _STEP),
    _example("sam", 2.86, _STEP | _radius(0.05), _BOTH),
    _example(
        "asam",
        2.55,
        _STEP | _radius(2.0),
        _BOTH,
        "the best of four radii on the test set: 2.75, 2.69, 2.55 and 2.90 with ρ 0.5, 1, 2 and 5",
    ),
    _example(
        "asam_official",
        2.37,
        _STEP | _radius(0.5),
        _BOTH,
        "the best of its radii on the test set, its η and whether all else was the SAM example's unknown",
        source="the SAM example's network with the authors' ASAM",
    ),
    _example(
        "gsam",
        2.45,
        {"optimizer.batchnorm": "clean", "optimizer.adaptive": True},
        "from before the example's cosine learning rate, when it had a step schedule, ρ from 6 to 2 and α 0.2: which "
        "settings made it is unknown",
        source="the GSAM example",
    ),
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
    Published(
        "sgd",
        "airbench94",
        5.99,
        "the authors' airbench94",
        "mean of 1,000 runs with test-time augmentation, 9.9 epochs instead of 10, float16",
        _AIRBENCH94,
        "experiment=airbench94",
        with_tta=True,
    ),
)


def published(config: Mapping[str, Any]) -> Published | None:
    """Return the published figure for a config's method on its network, else on the SAM example's network.

    None if there is neither, or if training labels are wrong: all figures are for correct labels.

    Args:
        config: the configuration, as in a record.
    """
    if _has_wrong_labels(config):
        return None
    figures = {(figure.method, figure.model): figure for figure in PUBLISHED}
    method = config["optimizer"]["name"]
    return figures.get((method, config["model"]["name"])) or figures.get((method, "wrn22_8"))


def _has_wrong_labels(config: Mapping[str, Any]) -> bool:
    data = config["data"]
    return bool(data.get("label_noise")) or data.get("labels", "clean") != "clean"


def differences(config: Mapping[str, Any]) -> list[str]:
    """Return why a run of this config cannot be compared with its published figure, as far as the protocol is known.

    An empty list means that no known setting differs.

    Args:
        config: the configuration, as in a record.
    """
    figure = published(config)
    if figure is None:
        return [f"there is no figure for {'wrong labels' if _has_wrong_labels(config) else 'this method'}"]
    values = LEFT_OUT | flat(config)
    return [
        f"{key} is {values[key]}" + ("" if usual is None else f", not {usual}")
        for key, usual in {"model.name": figure.model, **figure.protocol}.items()
        if values.get(key) not in (None, usual)  # absent only if another choice was made, which is listed itself
    ]


def published_table(rows: Sequence[Row], only_measured: bool = False) -> str:
    """Return the Markdown table of published figures; "" if it would be empty.

    Args:
        rows: rows of any experiments; one with a figure's protocol is put beside it.
        only_measured: leave out the figures without such a row.
    """
    cells = []
    for figure in PUBLISHED:
        of_protocol = [row for row in rows if is_of_protocol(row.config, figure) and row.errors]
        measured = "; ".join(_measured_error(row, figure) for row in of_protocol)
        if measured or not only_measured:
            facts = [figure.model, f"{figure.error:.2f}", figure.source, figure.caveat]
            cells.append([title_of(figure.method), *facts, measured or "not run"])
    return markdown(TABLE, cells) if cells else ""


def is_of_protocol(config: Mapping[str, Any], figure: Published) -> bool:
    """Return True if a configuration differs in nothing from what is known of a figure's protocol."""
    return published(config) is figure and not differences(config)


def _measured_error(row: Row, figure: Published) -> str:
    error = row.tta_error_in_words if figure.with_tta else row.error_in_words
    return f"{error} ({len(row.errors)} seed{'s' if len(row.errors) > 1 else ''})"
