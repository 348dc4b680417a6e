"""Label noise: which labels are wrong, that they are always the same ones, and that the test set has none."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.data import synthetic
from sam_bench.data.images import Images
from sam_bench.data.label_noise import LabelNoise
from sam_bench.errors import ConfigError
from sam_bench.runs.run import run
from sam_bench.runs.spec import RunSpec
from sam_bench.training.build import load_data

CLASSES = 10
COUNT = 50_000
SYNTHETIC = ["data=synthetic", "data.train_subset=500"]


def balanced(count: int = COUNT) -> Images:
    return Images(torch.zeros(count, 1, dtype=torch.uint8), torch.arange(count) % CLASSES)


def loaded(*overrides: str):
    return load_data(compose.compose(["data=synthetic", *overrides]).data)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_over_the_others_exactly_the_share_of_all_labels_is_wrong(share):
    noisy = LabelNoise(share, "others").apply(balanced(), CLASSES)
    assert noisy.wrong_labels == int(share * COUNT)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_over_all_classes_a_tenth_of_what_is_drawn_anew_is_right_again(share):
    noisy = LabelNoise(share, "all").apply(balanced(), CLASSES)
    drawn = int(share * COUNT)
    expected = drawn * (1 - 1 / CLASSES)
    deviation = (drawn * (1 / CLASSES) * (1 - 1 / CLASSES)) ** 0.5
    assert abs(noisy.wrong_labels - expected) < 4 * deviation


@pytest.mark.parametrize("over", ["all", "others"])
def test_every_class_is_hit_alike_and_every_wrong_class_is_as_likely(over):
    noisy = LabelNoise(0.4, over).apply(balanced(), CLASSES)
    table = torch.zeros(CLASSES, CLASSES).index_put_(
        (noisy.true_labels, noisy.labels), torch.ones(COUNT), accumulate=True
    )
    wrong = table[~torch.eye(CLASSES, dtype=torch.bool)]
    expected = 0.4 * COUNT / CLASSES / (CLASSES if over == "all" else CLASSES - 1)
    assert torch.all((wrong - expected).abs() < 5 * expected**0.5)
    assert table.sum(1).tolist() == [COUNT / CLASSES] * CLASSES


def test_a_seed_of_the_noise_decides_it():
    first, again, other = (LabelNoise(0.4, seed=seed).apply(balanced(), CLASSES).labels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("overrides", [[], ["data.split=val"], ["data.train_subset=500"]])
def test_images_and_their_division_are_those_without_noise(overrides):
    clean = loaded(*overrides)
    noisy = loaded(*overrides, "data.label_noise=0.4")
    for name in ("train", "test"):
        assert torch.equal(getattr(noisy, name).pixels, getattr(clean, name).pixels)
    assert torch.equal(noisy.train.true_labels, clean.train.labels)
    assert noisy.train.wrong_labels > 0.3 * len(noisy.train)
    assert noisy.sha256 != clean.sha256


def test_labels_of_the_test_set_are_true_and_those_of_held_out_images_are_not():
    test = loaded("data.label_noise=0.4").test
    assert torch.equal(test.labels, synthetic.load()[1].labels)
    assert test.true_labels is None and test.wrong_labels == 0
    held_out = loaded("data.label_noise=0.4", "data.split=val").test
    assert 0.3 * len(held_out) < held_out.wrong_labels < 0.42 * len(held_out)


def test_the_noise_is_the_same_for_every_method_and_seed_and_part_of_the_identity():
    def composed(*overrides: str):
        return compose.compose([*SYNTHETIC, *overrides])

    noisy = [composed("data.label_noise=0.4", *own) for own in ([], ["seed=3"], ["optimizer=gsam"])]
    assert len({load_data(config.data).sha256 for config in noisy}) == 1
    assert noisy[0].identity()["data"]["label_noise"] == 0.4
    assert composed("data.noise_seed=7", "data.noise_over=others").identity() == composed().identity()
    settings = ([], ["data.noise_seed=7"], ["data.noise_over=others"])
    assert len({str(composed("data.label_noise=0.4", *own).identity()) for own in settings}) == 3


@pytest.mark.parametrize(
    "override, reason",
    [
        ("data.label_noise=-0.1", "at least 0"),
        ("data.label_noise=1.0", "below 1"),
        ("data.label_noise=1e-5", "none of the 5000 training labels"),
        ("data.noise_over=some", "all, others"),
        ("data.noise_seed=-1", "at least 0"),
    ],
)
def test_noise_that_is_none_is_refused(override, reason):
    with pytest.raises(ConfigError, match=reason):
        compose.compose(["data=synthetic", override])


def test_a_run_trains_on_the_noisy_labels_and_says_how_many_are_wrong(folder, capsys):
    overrides = [*SYNTHETIC, "experiment=smoke", "model=resnet8", "optimizer=sgd", "trainer.epochs=1"]
    settings = ["trainer.device=cpu", "schedule.warmup_epochs=0", "data.label_noise=0.4", "trainer.progress=plain"]
    config = compose.compose([*overrides, *settings])
    record, _ = run(RunSpec.resolve(config))
    train = load_data(config.data).train
    assert record["wrong_train_labels"] == train.wrong_labels == int((train.labels != train.true_labels).sum())
    assert record["wrong_test_labels"] == 0
    assert f"{100 * train.wrong_labels / 500:.1f} % of the training labels wrong" in capsys.readouterr().out
