"""Tests that presets have the settings of their publication, and can be compared with its figures."""

import functools

import pytest

from sam_bench.cli import compose
from sam_bench.config.schema import Config
from sam_bench.report.published import differences, published
from tests.conftest import options
from tests.publications import DECISIVE, FIGURES, SHARED, SOURCES

#: Presets of our own protocols.
OURS = {"quick", "smoke", "wrn16_8", "wrn16_8_short"}
OURS |= {"noisy40", "noisy40_shared", "noisy40_aug", "clean5k", "clean5k_tuned", "clean5k_aug"}
OURS |= {"noisy40_draws", "human40", "clean5k_draws"}


def value(config: Config, key: str) -> object:
    """Return the value of a setting, which may be an option of the method."""
    *groups, name = key.split(".")
    method_options = config.optimizer.options() if groups == ["optimizer"] else {}
    return method_options[name] if name in method_options else getattr(functools.reduce(getattr, groups, config), name)


def differences_from_figure(*overrides: str) -> list[str]:
    """Return the settings for which a run cannot be compared with its published figure."""
    return differences(compose.compose(list(overrides)).identity())


def test_every_preset_is_ours_or_published():
    assert set(options("experiment")) == OURS | SOURCES.keys()
    assert not OURS & SOURCES.keys()


@pytest.mark.parametrize("preset", SOURCES)
def test_preset_has_published_settings(preset):
    config = compose.compose([f"experiment={preset}"])
    expected = SHARED | SOURCES[preset]
    assert {key: value(config, key) for key in expected} == expected


@pytest.mark.parametrize(("preset", "run"), [(preset, run) for preset, runs in FIGURES.items() for run in runs])
def test_preset_is_comparable_with_figure(preset, run):
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
def test_unpublished_setting_is_no_difference(change):
    assert differences_from_figure("experiment=gsam_example", change) == []


def test_batchnorm_is_no_difference_for_sgd():
    assert differences_from_figure("experiment=closure_example", "optimizer=sgd", "optimizer.batchnorm=clean") == []


@pytest.mark.parametrize(
    ("preset", "seeds"),
    [
        ("noisy40_draws", {"subset_seed": 3, "noise_seed": 3}),
        ("human40", {"subset_seed": 3}),
        ("clean5k_draws", {"subset_seed": 3}),
    ],
)
def test_draws_follow_seed(preset, seeds):
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
def test_draws_have_settings_of_one_draw(preset, other, methods):
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
