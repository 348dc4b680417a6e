"""How many labels are missed, memorised and seen through: against a count by hand, and in runs."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.runs.run import run
from sam_bench.runs.spec import RunSpec
from sam_bench.training.missed_labels import MissedLabels

NOISY = ["data=synthetic", "data.train_subset=200", "data.label_noise=0.4", "model=resnet8", "trainer.device=cpu"]
NOISY += ["experiment=smoke", "trainer.epochs=2", "trainer.batch_size=50", "trainer.progress=none"]
NAMES = ("train_error", "right_label_error", "wrong_label_error", "wrong_label_true_error")


def by_hand(predicted: list[int], labels: list[int], true: list[int]) -> dict[str, float]:
    examples = list(zip(predicted, labels, true, strict=True))
    right = [p != y for p, y, t in examples if y == t]
    wrong = [p != y for p, y, t in examples if y != t]
    seen = [p != t for p, y, t in examples if y != t]
    parts = ([p != y for p, y, _ in examples], right, wrong, seen)
    return {name: 100 * sum(part) / len(part) for name, part in zip(NAMES, parts, strict=True)}


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_counts_are_those_by_hand_however_batches_are_cut(batch_size):
    generator = torch.Generator().manual_seed(0)
    predicted, labels, true = torch.randint(3, (3, 100), generator=generator)
    missed = MissedLabels(torch.device("cpu"))
    for batch in zip(*(values.split(batch_size) for values in (predicted, labels, true)), strict=True):
        missed.update(*batch)
    assert missed.errors(100) == by_hand(predicted.tolist(), labels.tolist(), true.tolist())


def test_without_noise_there_is_one_error():
    missed = MissedLabels(torch.device("cpu"))
    missed.update(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]), None)
    assert missed.errors(4) == {"train_error": 25.0}


@pytest.mark.parametrize("own", [["optimizer=sgd"], ["optimizer=sam", "optimizer.m=20"], ["optimizer=esam"]])
def test_a_run_on_noisy_labels_tells_what_it_memorises_by_epoch(folder, own):
    record, _ = run(RunSpec.resolve(compose.compose([*NOISY, *own])))
    history = record["history"]
    wrong = record["wrong_train_labels"]
    right = 200 - wrong
    for epoch in range(2):
        error, on_right, on_wrong, against_true = (history[name][epoch] for name in NAMES)
        assert error == pytest.approx((on_right * right + on_wrong * wrong) / 200)
        assert on_wrong + against_true >= 100  # a prediction cannot be both the wrong and the true class
        assert (on_wrong * wrong / 100) == pytest.approx(round(on_wrong * wrong / 100))


def test_what_is_told_changes_nothing_in_training(folder, monkeypatch):
    told, _ = run(RunSpec.resolve(compose.compose([*NOISY, "optimizer=sam"])))
    again = compose.compose([*NOISY, "optimizer=sam", "trainer.rerun=true"])
    monkeypatch.setattr(MissedLabels, "update", lambda self, predicted, labels, true: None)
    untold, _ = run(RunSpec.resolve(again))
    assert untold["history"]["train_loss"] == told["history"]["train_loss"]
    assert untold["test_loss"] == told["test_loss"]


def test_a_network_that_learns_sees_through_the_noise_before_it_memorises(folder):
    overrides = ["trainer.epochs=6", "data.train_subset=1000", "schedule.warmup_epochs=0", "optimizer=sgd"]
    record, _ = run(RunSpec.resolve(compose.compose([*NOISY, *overrides, "data.crop=false", "data.cutout=false"])))
    last = {name: record["history"][name][-1] for name in NAMES}
    assert last["wrong_label_true_error"] < 60 < last["wrong_label_error"]
