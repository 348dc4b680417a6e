"""Tests of symmetric label noise: how many labels are wrong, which ones, and in which runs."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.data import synthetic
from sam_bench.data.images import Dataset, Images
from sam_bench.data.label_noise import LabelNoise
from sam_bench.errors import ConfigError
from sam_bench.training.build import load_data
from tests.conftest import execute

CLASSES = 10
COUNT = 50_000
SYNTHETIC = ["data=synthetic", "data.train_subset=500"]


def balanced(count: int = COUNT) -> Images:
    """Return images with equally many of each class."""
    return Images(torch.zeros(count, 1, dtype=torch.uint8), torch.arange(count) % CLASSES)


def loaded(*overrides: str) -> Dataset:
    """Load the synthetic data with these settings."""
    return load_data(compose.compose(["data=synthetic", *overrides]).data)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_noise_over_others_makes_exact_share_wrong(share):
    noisy = LabelNoise(share, "others").apply(balanced(), CLASSES)
    assert noisy.wrong_labels == int(share * COUNT)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_noise_over_all_leaves_a_tenth_correct(share):
    noisy = LabelNoise(share, "all").apply(balanced(), CLASSES)
    drawn = int(share * COUNT)
    expected = drawn * (1 - 1 / CLASSES)
    deviation = (drawn * (1 / CLASSES) * (1 - 1 / CLASSES)) ** 0.5
    assert abs(noisy.wrong_labels - expected) < 4 * deviation


@pytest.mark.parametrize("over", ["all", "others"])
def test_noise_is_uniform_over_classes(over):
    noisy = LabelNoise(0.4, over).apply(balanced(), CLASSES)

    # Counts of examples by true label and noisy label.
    table = torch.zeros(CLASSES, CLASSES).index_put_(
        (noisy.true_labels, noisy.labels), torch.ones(COUNT), accumulate=True
    )
    wrong = table[~torch.eye(CLASSES, dtype=torch.bool)]
    expected = 0.4 * COUNT / CLASSES / (CLASSES if over == "all" else CLASSES - 1)

    assert torch.all((wrong - expected).abs() < 5 * expected**0.5)
    assert table.sum(1).tolist() == [COUNT / CLASSES] * CLASSES


def test_noise_depends_only_on_its_seed():
    labels, same_seed, other_seed = (LabelNoise(0.4, seed=seed).apply(balanced(), CLASSES).labels for seed in (0, 0, 1))
    assert torch.equal(labels, same_seed)
    assert not torch.equal(labels, other_seed)


@pytest.mark.parametrize("overrides", [[], ["data.split=val"], ["data.train_subset=500"]])
def test_load_data_with_noise_keeps_images(overrides):
    clean = loaded(*overrides)
    noisy = loaded(*overrides, "data.label_noise=0.4")
    for name in ("train", "test"):
        assert torch.equal(getattr(noisy, name).pixels, getattr(clean, name).pixels)
    assert torch.equal(noisy.train.true_labels, clean.train.labels)
    assert noisy.train.wrong_labels > 0.3 * len(noisy.train)
    assert noisy.sha256 != clean.sha256


def test_noise_spares_only_test_set():
    test = loaded("data.label_noise=0.4").test
    assert torch.equal(test.labels, synthetic.load()[1].labels)
    assert test.true_labels is None and test.wrong_labels == 0

    held_out = loaded("data.label_noise=0.4", "data.split=val").test
    assert 0.3 * len(held_out) < held_out.wrong_labels < 0.42 * len(held_out)


def test_noise_is_equal_for_all_methods_and_seeds():
    choices = ([], ["seed=3"], ["optimizer=gsam"])
    configs = [compose.compose([*SYNTHETIC, "data.label_noise=0.4", *choice]) for choice in choices]
    assert len({load_data(config.data).sha256 for config in configs}) == 1


def test_noise_is_in_identity_unless_zero():
    def identity(*overrides: str) -> dict:
        return compose.compose([*SYNTHETIC, *overrides]).identity()

    assert identity("data.label_noise=0.4")["data"]["label_noise"] == 0.4
    assert identity("data.noise_seed=7", "data.noise_over=others") == identity()

    choices = ([], ["data.noise_seed=7"], ["data.noise_over=others"])
    assert len({str(identity("data.label_noise=0.4", *choice)) for choice in choices}) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.label_noise=-0.1", "at least 0"),
        ("data.label_noise=1.0", "below 1"),
        ("data.label_noise=1e-5", "none of .*5000"),
        ("data.noise_over=some", "all, others"),
        ("data.noise_seed=-1", "at least 0"),
    ],
)
def test_bad_noise_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        compose.compose(["data=synthetic", override])


def test_run_counts_wrong_labels(folder, capsys):
    overrides = [*SYNTHETIC, "experiment=smoke", "model=resnet8", "optimizer=sgd", "trainer.epochs=1"]
    overrides += ["trainer.device=cpu", "schedule.warmup_epochs=0", "data.label_noise=0.4", "trainer.progress=plain"]
    config = compose.compose(overrides)

    record = execute(config)

    train = load_data(config.data).train
    assert record["wrong_train_labels"] == train.wrong_labels == int((train.labels != train.true_labels).sum())
    assert record["wrong_test_labels"] == 0
    assert f"{100 * train.wrong_labels / 500:.1f} % of the training labels" in capsys.readouterr().out
