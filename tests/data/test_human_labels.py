"""Tests of CIFAR-10N's human labels, with small files instead of the real ones."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_bench.cli import compose
from sam_bench.cli.commands import data as data_command
from sam_bench.data import human_labels
from sam_bench.data.human_labels import HumanLabels
from sam_bench.data.images import Dataset, Images
from sam_bench.data.registry import HUMAN_LABELS
from sam_bench.errors import ConfigError, DataError
from sam_bench.runs.run import check, run
from sam_bench.runs.spec import RunSpec
from sam_bench.training.build import load_data
from tests.conftest import ROOT
from tests.damage import FolderCreator, flip_bit
from tests.data.cifar_files import examples, write_named_binary_folder

#: The published file, where a user has put it.
PUBLISHED = ROOT / "data" / human_labels.FILE

#: Percentages of wrong labels in the published file.
SHARES = {"worse": 40.21, "aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64}


def publish(root: Path, monkeypatch, true: np.ndarray) -> dict[str, np.ndarray]:
    """Write a file in the published format, expect its digest, and return its arrays."""
    generator = np.random.default_rng(1)
    arrays = {"clean_label": true}
    for number, name in enumerate(HUMAN_LABELS.values(), start=1):
        arrays[name] = np.where(generator.random(len(true)) < number / 10, (true + number) % 10, true)

    torch.save(arrays, root / human_labels.FILE)
    content = (root / human_labels.FILE).read_bytes()
    monkeypatch.setattr(human_labels, "SHA256", hashlib.sha256(content).hexdigest())
    return arrays


def images(true: np.ndarray) -> Images:
    """Return images with these labels."""
    return Images(torch.zeros(len(true), 1, dtype=torch.uint8), torch.from_numpy(true))


@pytest.fixture
def training_labels(small_cifar10, folder) -> np.ndarray:
    """Write CIFAR-10 as small files of noise into data/; return the training labels."""
    write_named_binary_folder(folder / "data", small_cifar10)
    *train, _ = (examples(content)[0] for content in small_cifar10.values())
    return np.concatenate(train).astype(np.int64)


def loaded(*overrides: str) -> Dataset:
    """Load the data of a configuration."""
    return load_data(compose.compose(list(overrides)).data)


@pytest.mark.parametrize("name", HUMAN_LABELS)
def test_human_labels_replace_true_ones(name, tmp_path, monkeypatch):
    true = np.arange(500) % 10
    given = torch.from_numpy(publish(tmp_path, monkeypatch, true)[HUMAN_LABELS[name]])

    noisy = HumanLabels(name, tmp_path).apply(images(true), 10)

    assert torch.equal(noisy.labels, given)
    assert torch.equal(noisy.true_labels, torch.from_numpy(true))
    assert noisy.wrong_labels == int((given != torch.from_numpy(true)).sum()) > 0


def test_missing_human_labels_name_their_source(tmp_path):
    with pytest.raises(DataError) as caught:
        HumanLabels("worse", tmp_path).read()
    for text in ("data.labels=worse", str(tmp_path / "CIFAR-10_human.pt"), "UCSC-REAL/cifar-10-100n", "CC BY-NC 4.0"):
        assert text in str(caught.value)


def test_human_labels_with_flipped_bit_are_refused(tmp_path, monkeypatch):
    publish(tmp_path, monkeypatch, np.arange(50) % 10)
    path = tmp_path / human_labels.FILE
    path.write_bytes(flip_bit(path.read_bytes(), path.stat().st_size // 2))

    with pytest.raises(DataError, match=rf"{path} .*sha256 .*[0-9a-f]{{64}}"):
        HumanLabels("worse", tmp_path).read()


def test_human_labels_of_other_images_are_refused(tmp_path, monkeypatch):
    true = np.arange(50) % 10
    publish(tmp_path, monkeypatch, true)
    with pytest.raises(DataError, match="clean_label"):
        HumanLabels("worse", tmp_path).apply(images(true[::-1].copy()), 10)


def test_malicious_human_labels_are_not_executed(tmp_path, monkeypatch):
    torch.save({"clean_label": FolderCreator(tmp_path / "executed")}, tmp_path / human_labels.FILE)
    content = (tmp_path / human_labels.FILE).read_bytes()
    monkeypatch.setattr(human_labels, "SHA256", hashlib.sha256(content).hexdigest())

    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        HumanLabels("worse", tmp_path).read()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("overrides", [[], ["data.split=val"], ["data.train_subset=100"]])
def test_load_data_with_human_labels_keeps_images(overrides, training_labels, folder, monkeypatch):
    publish(folder / "data", monkeypatch, training_labels)

    clean = loaded(*overrides)
    noisy = loaded(*overrides, "data.labels=worse")

    for name in ("train", "test"):
        assert torch.equal(getattr(noisy, name).pixels, getattr(clean, name).pixels)
    assert torch.equal(noisy.train.true_labels, clean.train.labels)
    assert noisy.train.wrong_labels > 0
    assert noisy.sha256 != clean.sha256 != loaded(*overrides, "data.labels=aggre").sha256 != noisy.sha256


def test_human_labels_spare_test_set(training_labels, folder, monkeypatch):
    arrays = publish(folder / "data", monkeypatch, training_labels)
    assert loaded("data.labels=random3").test.wrong_labels == 0

    # Held-out images are training images, whose labels are wrong at the same rate up to chance.
    rate = (arrays["random_label3"] != training_labels).mean()
    held_out = loaded("data.labels=random3", "data.split=val").test
    assert abs(held_out.wrong_labels / len(held_out) - rate) < 4 * (rate * (1 - rate) / len(held_out)) ** 0.5


def test_run_counts_wrong_human_labels(training_labels, folder, monkeypatch, capsys):
    publish(folder / "data", monkeypatch, training_labels)
    overrides = ["data.labels=random2", "data.train_subset=20", "model=resnet8", "optimizer=sgd", "trainer.device=cpu"]
    overrides += ["trainer.epochs=1", "trainer.batch_size=10", "trainer.progress=plain"]
    config = compose.compose(overrides)

    record, _ = run(RunSpec.resolve(config))

    train = load_data(config.data).train
    assert record["wrong_train_labels"] == train.wrong_labels > 0 == record["wrong_test_labels"]
    assert record["config"]["data"]["labels"] == "random2"
    assert record["history"]["wrong_label_error"][0] is not None
    output = capsys.readouterr().out
    assert f"{5 * train.wrong_labels:.1f} % of the training labels" in output
    assert "random2" in output


def test_check_verifies_each_choice_of_labels(training_labels):
    overrides = ["model=resnet8", "trainer.device=cpu", "data.train_subset=20"]
    configs = [compose.compose([*overrides, f"data.labels={labels}"]) for labels in ("clean", "worse")]
    assert set(check(configs[:1])) == {configs[0]}
    with pytest.raises(DataError, match="UCSC-REAL"):
        check(configs)


def test_missing_human_labels_stop_before_download(folder):
    with pytest.raises(DataError, match="UCSC-REAL"):
        loaded("data.labels=worse", "data.root=nothing")
    assert not (folder / "nothing").exists()


def test_prepare_data_verifies_human_labels(training_labels, folder, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="UCSC-REAL"):
        data_command.main(["data.labels=worse"])
    publish(folder / "data", monkeypatch, training_labels)
    data_command.main(["data.labels=worse"])
    assert f"data/{human_labels.FILE}, and every byte is as it should be" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=cifar100", "data.labels=worse"], "data=cifar10"),
        (["data=synthetic", "data.labels=worse"], "data=cifar10"),
        (["data.labels=worse", "data.label_noise=0.4"], "data.label_noise=0"),
        (["data.labels=worst"], "did you mean worse"),
    ],
)
def test_bad_labels_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose.compose(overrides)


def test_labels_are_in_identity_unless_clean():
    assert "labels" not in compose.compose([]).identity()["data"]
    assert compose.compose(["data.labels=aggre"]).identity()["data"]["labels"] == "aggre"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="CIFAR-10N's file is not in data/")
def test_published_human_labels_have_known_shares():
    arrays = HumanLabels("worse", PUBLISHED.parent).read()
    assert {array.shape for array in arrays.values()} == {(50_000,)}
    shares = {
        name: 100 * (arrays[key] != arrays["clean_label"]).double().mean().item() for name, key in HUMAN_LABELS.items()
    }
    assert shares == pytest.approx(SHARES, abs=0.005)
