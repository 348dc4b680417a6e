"""The presets: each that bears a publication's name has that publication's settings, and meets its figures."""

import functools

import pytest

from sam_bench.cli import compose
from sam_bench.config.schema import Config
from sam_bench.report.published import differences, published
from tests.conftest import options

OURS = {"quick", "smoke", "wrn16_8", "wrn16_8_short"}
OURS |= {"noisy40", "noisy40_shared", "noisy40_aug", "clean5k", "clean5k_tuned", "clean5k_aug"}
OURS |= {"noisy40_draws", "human40", "clean5k_draws"}
"""Presets that claim nobody's protocol as a whole."""

SHARED = {
    "data.name": "cifar10",
    "data.split": "test",
    "data.train_subset": None,
    "data.crop": True,
    "data.padding": "zeros",
    "data.flip": True,
    "data.normalise": True,
    "optimizer.base.name": "sgd",
    "optimizer.base.lr": 0.1,
    "optimizer.base.momentum": 0.9,
    "optimizer.base.weight_decay": 0.0005,
    "optimizer.base.nesterov": False,
    "optimizer.clip_norm": None,
    "optimizer.m": None,
    "schedule.warmup_epochs": 0.0,
    "schedule.lr_min": 0.0,
    "trainer.epochs": 200,
    "trainer.batch_size": 128,
    "trainer.drop_last": False,
    "averaging.name": "none",
}
"""What all the sources agree in, but for what is said of one of them below."""

KILOSTEP = 1024 * (1 + 1 / (1 - 0.85))
"""By which their author divides learning rates: a step's length with Nesterov momentum 0.85, for 1,024 examples."""

AIRBENCH = {
    "optimizer.name": "sgd",
    "optimizer.base.momentum": 0.85,
    "optimizer.base.nesterov": True,
    "optimizer.base.norm_bias_lr_factor": 64.0,
    "data.padding": "reflect",
    "data.alternate_flips": True,
    "schedule.name": "triangular",
    "schedule.start": 0.2,
    "averaging.name": "lookahead",
    "averaging.every": 5,
    "averaging.decay": 0.95,
    "trainer.batch_size": 1024,
    "trainer.drop_last": True,
    "trainer.loss_reduction": "sum",
    "trainer.label_smoothing": 0.2,
    "trainer.smoothing_over": "all",
    "trainer.freeze": ("whitening.bias",),
    "trainer.freeze_after": 3,
    "trainer.precision": "bf16",
    "trainer.test_time_augmentation": True,
}
"""What airbench94 and airbench96 have in common."""

SOURCES = {
    "sam_example": {
        "model.name": "wrn22_8",
        "data.cutout": True,
        "optimizer.name": "sam",
        "optimizer.rho": 0.05,
        "optimizer.rho_schedule": "constant",
        "optimizer.batchnorm": "clean",
        "schedule.name": "step",
        "schedule.milestones": (0.3, 0.6, 0.8),
        "schedule.gamma": 0.2,
        "trainer.label_smoothing": 0.1,
        "trainer.smoothing_over": "others",
    },
    "gsam_example": {
        "model.name": "wrn22_8",
        "data.cutout": True,
        "optimizer.name": "gsam",
        "optimizer.rho": 2.0,
        "optimizer.rho_min": 2.0,
        "optimizer.rho_schedule": "proportional",
        "optimizer.alpha": 0.4,
        "optimizer.adaptive": True,
        "optimizer.batchnorm": "clean",
        "schedule.name": "cosine",
        "schedule.every": "step",
        "trainer.label_smoothing": 0.1,
        "trainer.smoothing_over": "others",
    },
    "asam_official": {
        "model.name": "wrn28_10",
        "data.cutout": False,
        "optimizer.name": "asam_official",
        "optimizer.rho": 0.5,
        "optimizer.rho_schedule": "constant",
        "optimizer.eta": 0.0,
        "optimizer.batchnorm": "both",
        "schedule.name": "cosine",
        "schedule.every": "epoch",
        "trainer.label_smoothing": 0.1,
        "trainer.smoothing_over": "all",
    },
    "wsam_example": {
        "model.name": "resnet18",
        "data.cutout": False,
        "optimizer.name": "wsam",
        "optimizer.rho": 0.2,
        "optimizer.rho_schedule": "constant",
        "optimizer.gamma": 0.9,
        "optimizer.decouple": True,
        "optimizer.adaptive": False,
        "optimizer.max_norm": None,
        "optimizer.batchnorm": "clean",
        "schedule.name": "cosine",
        "schedule.every": "step",
        "trainer.label_smoothing": 0.0,
    },
    "wasam_cifar10": {
        "model.name": "torchvision",
        "model.arch": "resnet18",
        "data.cutout": True,
        "optimizer.name": "wasam",
        "optimizer.rho": 0.1,
        "optimizer.rho_schedule": "constant",
        "optimizer.batchnorm": "clean",
        "schedule.name": "cosine",
        "schedule.every": "epoch",
        "trainer.epochs": 400,
        "trainer.batch_size": 256,
        "trainer.label_smoothing": 0.0,
        "averaging.name": "swa",
        "averaging.starts": (0.5, 0.6, 0.75, 0.9),
    },
    "closure_example": {
        "model.name": "resnet20",
        "data.padding": "reflect",
        "data.cutout": False,
        "optimizer.name": "sam",
        "optimizer.rho": 0.05,
        "optimizer.rho_schedule": "constant",
        "optimizer.batchnorm": "both",
        "schedule.name": "cosine",
        "schedule.every": "epoch",
        "schedule.warmup_epochs": 5.0,
        "schedule.warmup_start": 0.25,
        "trainer.label_smoothing": 0.0,
    },
    "airbench94": AIRBENCH
    | {
        "model.name": "airbench94",
        "optimizer.base.lr": pytest.approx(11.5 / KILOSTEP, rel=1e-15),
        "optimizer.base.weight_decay": pytest.approx(0.0153 * 1024 / 11.5, rel=1e-15),
        "data.padding_pixels": 2,
        "data.cutout": False,
        "schedule.peak": 0.23,
        "schedule.end": 0.07,
        "trainer.epochs": 10,
    },
    "airbench96": AIRBENCH
    | {
        "model.name": "airbench96",
        "optimizer.base.lr": pytest.approx(9 / KILOSTEP, rel=1e-15),
        "optimizer.base.weight_decay": pytest.approx(0.012 * 1024 / 9, rel=1e-15),
        "data.padding_pixels": 4,
        "data.cutout": True,
        "data.cutout_size": 12,
        "data.cutout_probability": 1.0,
        "data.cutout_inside": True,
        "schedule.peak": 0.1,
        "schedule.end": 0.0,
        "trainer.epochs": 37,
    },
}
"""As read in their public code; of WASAM's all but the data, which are CIFAR-100."""

FIGURES = {
    "sam_example": ["optimizer=sgd", "optimizer=sam", "optimizer=asam", "optimizer=asam_official"],
    "gsam_example": ["optimizer=gsam"],
    "closure_example": [
        f"optimizer={method} model={model}"
        for method in ("sgd", "sam")
        for model in ("resnet20", "wrn28_2", "resnext29_32x4d")
    ],
}
"""By preset, the runs that have a published figure of its protocol."""

DECISIVE = {
    "sam_example": [
        "data.cutout=false",
        "data.padding=reflect",
        "data.flip=false",
        "optimizer.base.weight_decay=0.001",
        "optimizer.clip_norm=5.0",
        "optimizer.m=32",
        "optimizer.rho=0.1",
        "optimizer.rho_schedule=linear",
        "schedule.warmup_epochs=5",
        "schedule.gamma=0.1",
        "schedule=cosine",
        "trainer.batch_size=256",
        "trainer.label_smoothing=0.0",
        "trainer.smoothing_over=all",
    ],
    "gsam_example": [
        "data.cutout=false",
        "data.padding=reflect",
        "optimizer.adaptive=false",
        "optimizer.batchnorm=both",
        "trainer.epochs=100",
        "trainer.label_smoothing=0.0",
    ],
    "closure_example": [
        "data.cutout=true",
        "data.padding=zeros",
        "optimizer.batchnorm=clean",
        "optimizer.rho=0.1",
        "schedule.every=step",
        "schedule.lr_min=0.001",
        "schedule.warmup_epochs=0",
        "schedule.warmup_start=0",
        "schedule=linear",
        "trainer.label_smoothing=0.1",
    ],
}
"""By preset, changes after which a run of its own method is not one of the figure's protocol any more."""


def value(config: Config, key: str) -> object:
    *groups, name = key.split(".")
    own = config.optimizer.options() if groups == ["optimizer"] else {}
    return own[name] if name in own else getattr(functools.reduce(getattr, groups, config), name)


def reasons(*overrides: str) -> list[str]:
    """Why a run cannot be compared with its published figure."""
    return differences(compose.compose(list(overrides)).identity())


def test_every_preset_is_known_as_a_publications_or_as_our_own():
    assert set(options("experiment")) == OURS | SOURCES.keys()
    assert not OURS & SOURCES.keys()


@pytest.mark.parametrize("preset", SOURCES)
def test_a_publications_preset_has_its_settings(preset):
    config = compose.compose([f"experiment={preset}"])
    expected = SHARED | SOURCES[preset]
    assert {key: value(config, key) for key in expected} == expected


@pytest.mark.parametrize(("preset", "run"), [(preset, run) for preset, runs in FIGURES.items() for run in runs])
def test_a_presets_run_is_comparable_with_its_figure(preset, run):
    config = compose.compose([f"experiment={preset}", *run.split()])
    assert published(config.identity()).model == config.model.name
    assert reasons(f"experiment={preset}", *run.split()) == []


@pytest.mark.parametrize(
    ("preset", "change"), [(preset, change) for preset, changes in DECISIVE.items() for change in changes]
)
def test_a_decisive_change_is_said(preset, change):
    key = change.partition("=")[0]
    found = reasons(f"experiment={preset}", change)
    assert any(text.startswith(f"{'schedule.name' if key == 'schedule' else key} is ") for text in found)


@pytest.mark.parametrize("change", ["schedule=step", "optimizer.rho=6", "optimizer.alpha=0.2", "schedule.lr_min=0.001"])
def test_what_is_unknown_of_gsams_figure_is_not_asked_for(change):
    assert reasons("experiment=gsam_example", change) == []


@pytest.mark.parametrize(
    ("preset", "tied"),
    [
        ("noisy40_draws", {"subset_seed": 3, "noise_seed": 3}),
        ("human40", {"subset_seed": 3}),
        ("clean5k_draws", {"subset_seed": 3}),
    ],
)
def test_preset_of_draws_follows_the_seed(preset, tied):
    config = compose.compose([f"experiment={preset}", "seed=3"])
    data = config.identity()["data"]
    assert {key: data[key] for key in data if key.endswith("_seed")} == tied
    assert config.trainer.precision == "bf16"


@pytest.mark.parametrize(
    ("preset", "other", "methods"),
    [
        ("noisy40_draws", "noisy40", ("sgd", "sam", "asam", "gsam", "wsam")),
        ("clean5k_draws", "clean5k_tuned", ("sgd", "sam")),
    ],
)
def test_preset_of_draws_takes_the_values_of_one_draw(preset, other, methods):
    for method in methods:
        one, many = (compose.compose([f"experiment={name}", f"optimizer={method}"]) for name in (other, preset))
        assert many.optimizer == one.optimizer
        changed = {"subset_seed": many.seed, "noise_seed": many.data.noise_seed}
        assert many.data == one.data.model_copy(update=changed)


def test_human40_is_noisy40_with_labels_of_people():
    human, noisy = (compose.compose([f"experiment={name}", "~tuned"]) for name in ("human40", "noisy40"))
    changed = {"labels": "worse", "label_noise": 0.0, "subset_seed": human.seed}
    assert human.data == noisy.data.model_copy(update=changed)
    assert (human.model, human.schedule) == (noisy.model, noisy.schedule)
    assert human.trainer.model_copy(update={"precision": noisy.trainer.precision}) == noisy.trainer


def test_batchnorms_statistics_are_nothing_that_sgd_could_differ_in():
    assert reasons("experiment=closure_example", "optimizer=sgd", "optimizer.batchnorm=clean") == []
