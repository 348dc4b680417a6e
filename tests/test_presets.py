"""Tests of the presets: those named after a publication have its settings and can be compared with its figures."""

import functools

import pytest

from sam_bench.cli import compose
from sam_bench.config.schema import Config
from sam_bench.report.published import differences, published
from tests.conftest import options

#: Presets of our own protocols.
OURS = {"quick", "smoke", "wrn16_8", "wrn16_8_short"}
OURS |= {"noisy40", "noisy40_shared", "noisy40_aug", "clean5k", "clean5k_tuned", "clean5k_aug"}
OURS |= {"noisy40_draws", "human40", "clean5k_draws"}

#: Settings of all publications, unless SOURCES has another value for one of them.
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

#: Airbench's divisor of learning rates: the length of a step with Nesterov momentum 0.85, times 1,024 examples.
KILOSTEP = 1024 * (1 + 1 / (1 - 0.85))

#: Settings that airbench94 and airbench96 have in common.
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

#: Each publication's settings, from its public code; WASAM's code is for CIFAR-100, and only the data differ.
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

#: By preset, the runs whose protocol is that of a published figure.
FIGURES = {
    "sam_example": ["optimizer=sgd", "optimizer=sam", "optimizer=asam", "optimizer=asam_official"],
    "gsam_example": ["optimizer=gsam"],
    "closure_example": [
        f"optimizer={method} model={model}"
        for method in ("sgd", "sam")
        for model in ("resnet20", "wrn28_2", "resnext29_32x4d")
    ],
}

#: By preset, changes after which a run of its method cannot be compared with the published figure.
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


def value(config: Config, key: str) -> object:
    """Return the value of a setting, which may be an option of the method."""
    *groups, name = key.split(".")
    method_options = config.optimizer.options() if groups == ["optimizer"] else {}
    return method_options[name] if name in method_options else getattr(functools.reduce(getattr, groups, config), name)


def differences_from_figure(*overrides: str) -> list[str]:
    """Return the settings for which a run cannot be compared with its published figure."""
    return differences(compose.compose(list(overrides)).identity())


def test_every_preset_is_ours_or_a_publications():
    assert set(options("experiment")) == OURS | SOURCES.keys()
    assert not OURS & SOURCES.keys()


@pytest.mark.parametrize("preset", SOURCES)
def test_preset_has_the_publications_settings(preset):
    config = compose.compose([f"experiment={preset}"])
    expected = SHARED | SOURCES[preset]
    assert {key: value(config, key) for key in expected} == expected


@pytest.mark.parametrize(("preset", "run"), [(preset, run) for preset, runs in FIGURES.items() for run in runs])
def test_preset_is_comparable_with_its_figure(preset, run):
    config = compose.compose([f"experiment={preset}", *run.split()])
    assert published(config.identity()).model == config.model.name
    assert differences_from_figure(f"experiment={preset}", *run.split()) == []


@pytest.mark.parametrize(
    ("preset", "change"), [(preset, change) for preset, changes in DECISIVE.items() for change in changes]
)
def test_decisive_change_is_a_difference(preset, change):
    key = change.partition("=")[0]
    key = "schedule.name" if key == "schedule" else key
    assert any(text.startswith(f"{key} is ") for text in differences_from_figure(f"experiment={preset}", change))


@pytest.mark.parametrize("change", ["schedule=step", "optimizer.rho=6", "optimizer.alpha=0.2", "schedule.lr_min=0.001"])
def test_unpublished_setting_of_gsam_is_no_difference(change):
    assert differences_from_figure("experiment=gsam_example", change) == []


@pytest.mark.parametrize(
    ("preset", "seeds"),
    [
        ("noisy40_draws", {"subset_seed": 3, "noise_seed": 3}),
        ("human40", {"subset_seed": 3}),
        ("clean5k_draws", {"subset_seed": 3}),
    ],
)
def test_preset_of_draws_follows_the_seed(preset, seeds):
    config = compose.compose([f"experiment={preset}", "seed=3"])
    data = config.identity()["data"]
    assert {key: data[key] for key in data if key.endswith("_seed")} == seeds
    assert config.trainer.precision == "bf16"


@pytest.mark.parametrize(
    ("preset", "other", "methods"),
    [
        ("noisy40_draws", "noisy40", ("sgd", "sam", "asam", "gsam", "wsam")),
        ("clean5k_draws", "clean5k_tuned", ("sgd", "sam")),
    ],
)
def test_preset_of_draws_has_settings_of_one_draw(preset, other, methods):
    for method in methods:
        one_draw, draws = (compose.compose([f"experiment={name}", f"optimizer={method}"]) for name in (other, preset))
        assert draws.optimizer == one_draw.optimizer
        changed = {"subset_seed": draws.seed, "noise_seed": draws.data.noise_seed}
        assert draws.data == one_draw.data.model_copy(update=changed)


def test_human40_is_noisy40_with_human_labels():
    human, noisy = (compose.compose([f"experiment={name}", "~tuned"]) for name in ("human40", "noisy40"))
    changed = {"labels": "worse", "label_noise": 0.0, "subset_seed": human.seed}
    assert human.data == noisy.data.model_copy(update=changed)
    assert (human.model, human.schedule) == (noisy.model, noisy.schedule)
    assert human.trainer.model_copy(update={"precision": noisy.trainer.precision}) == noisy.trainer


def test_batchnorm_setting_is_no_difference_for_sgd():
    assert differences_from_figure("experiment=closure_example", "optimizer=sgd", "optimizer.batchnorm=clean") == []
