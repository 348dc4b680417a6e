"""Tests of CIFAR-10N's human labels, with small files instead of the real ones."""

import dataclasses
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch

from sam_bench.cli import compose
from sam_bench.cli.commands import data as data_command
from sam_bench.data import cifar, human_labels
from sam_bench.data.human_labels import HumanLabels
from sam_bench.data.images import Images
from sam_bench.data.registry import HUMAN_LABELS
from sam_bench.errors import ConfigError, DataError
from sam_bench.runs.run import check, run
from sam_bench.runs.spec import RunSpec
from sam_bench.training.build import load_data
from tests.conftest import ROOT

#: Number of images in each of CIFAR-10's files.
IMAGES = 200

#: The published file, where a user has put it.
PUBLISHED = ROOT / "data" / human_labels.FILE

#: Percentages of wrong labels in the published file.
SHARES = {"worse": 40.21, "aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64}


def publish(root, monkeypatch, true: np.ndarray) -> dict[str, np.ndarray]:
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
    return Images(torch.zeros(len(true), 1, dtype=torch.uint8), torch.from_numpy(true))


@pytest.fixture
def small_cifar(folder, monkeypatch) -> np.ndarray:
    """Write CIFAR-10 as small files of noise into data/; return the training labels."""
    generator = np.random.default_rng(0)
    data_folder = folder / "data" / cifar.CIFAR10.folder
    data_folder.mkdir(parents=True)

    digests, labels = {}, []
    for name in cifar.SHA256:
        records = generator.integers(0, 256, (IMAGES, cifar.RECORD), dtype=np.uint8)
        records[:, 0] = generator.permutation(np.arange(IMAGES) % 10)
        (data_folder / name).write_bytes(records.tobytes())
        digests[name] = hashlib.sha256(records.tobytes()).hexdigest()
        labels.append(records[:, 0].astype(np.int64))

    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, digests=digests, remote={}))
    return np.concatenate(labels[:-1])


def loaded(*overrides: str):
    return load_data(compose.compose(list(overrides)).data)


@pytest.mark.parametrize("name", HUMAN_LABELS)
def test_human_labels_replace_true_ones(name, tmp_path, monkeypatch):
    true = np.arange(500) % 10
    given = torch.from_numpy(publish(tmp_path, monkeypatch, true)[HUMAN_LABELS[name]])

    noisy = HumanLabels(name, tmp_path).apply(images(true), 10)

    assert torch.equal(noisy.labels, given)
    assert torch.equal(noisy.true_labels, torch.from_numpy(true))
    assert noisy.wrong_labels == int((given != torch.from_numpy(true)).sum()) > 0


def test_human_labels_missing_file_names_the_source(tmp_path):
    with pytest.raises(DataError) as caught:
        HumanLabels("worse", tmp_path).read()
    for word in ("data.labels=worse", str(tmp_path / "CIFAR-10_human.pt"), "UCSC-REAL/cifar-10-100n", "CC BY-NC 4.0"):
        assert word in str(caught.value)


def test_human_labels_flipped_bit_is_refused(tmp_path, monkeypatch):
    publish(tmp_path, monkeypatch, np.arange(50) % 10)
    path = tmp_path / human_labels.FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(DataError, match=rf"{path} .*sha256 .*[0-9a-f]{{64}}"):
        HumanLabels("worse", tmp_path).read()


def test_human_labels_of_other_images_are_refused(tmp_path, monkeypatch):
    true = np.arange(50) % 10
    publish(tmp_path, monkeypatch, true)
    with pytest.raises(DataError, match="clean_label"):
        HumanLabels("worse", tmp_path).apply(images(true[::-1].copy()), 10)


def test_human_labels_payload_is_not_executed(tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"clean_label": Payload()}, tmp_path / human_labels.FILE)
    content = (tmp_path / human_labels.FILE).read_bytes()
    monkeypatch.setattr(human_labels, "SHA256", hashlib.sha256(content).hexdigest())

    with pytest.raises(pickle.UnpicklingError, match="system"):
        HumanLabels("worse", tmp_path).read()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("overrides", [[], ["data.split=val"], ["data.train_subset=100"]])
def test_load_data_human_labels_keep_images(overrides, small_cifar, folder, monkeypatch):
    publish(folder / "data", monkeypatch, small_cifar)

    clean = loaded(*overrides)
    noisy = loaded(*overrides, "data.labels=worse")

    for name in ("train", "test"):
        assert torch.equal(getattr(noisy, name).pixels, getattr(clean, name).pixels)
    assert torch.equal(noisy.train.true_labels, clean.train.labels)
    assert noisy.train.wrong_labels > 0
    assert noisy.sha256 != clean.sha256 != loaded(*overrides, "data.labels=aggre").sha256 != noisy.sha256


def test_load_data_human_labels_spare_the_test_set(small_cifar, folder, monkeypatch):
    arrays = publish(folder / "data", monkeypatch, small_cifar)
    assert loaded("data.labels=random3").test.wrong_labels == 0

    # Held-out images are training images, whose labels are wrong at the same rate up to chance.
    rate = (arrays["random_label3"] != small_cifar).mean()
    held_out = loaded("data.labels=random3", "data.split=val").test
    assert abs(held_out.wrong_labels / len(held_out) - rate) < 4 * (rate * (1 - rate) / len(held_out)) ** 0.5


def test_run_human_labels_are_counted(small_cifar, folder, monkeypatch, capsys):
    publish(folder / "data", monkeypatch, small_cifar)
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


def test_check_verifies_each_choice_of_labels(small_cifar):
    overrides = ["model=resnet8", "trainer.device=cpu", "data.train_subset=20"]
    configs = [compose.compose([*overrides, f"data.labels={labels}"]) for labels in ("clean", "worse")]
    assert set(check(configs[:1])) == {configs[0]}
    with pytest.raises(DataError, match="UCSC-REAL"):
        check(configs)


def test_missing_human_labels_stop_before_download(folder):
    with pytest.raises(DataError, match="UCSC-REAL"):
        loaded("data.labels=worse", "data.root=nothing")
    assert not (folder / "nothing").exists()


def test_prepare_data_verifies_human_labels(small_cifar, folder, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="UCSC-REAL"):
        data_command.main(["data.labels=worse"])
    publish(folder / "data", monkeypatch, small_cifar)
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


def test_labels_are_in_the_identity_unless_clean():
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
