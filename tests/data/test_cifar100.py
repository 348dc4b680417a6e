"""Tests of CIFAR-100 from the data folder and its server, with small files of noise instead of the real ones."""

import dataclasses
import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch

from sam_bench.cli import compose
from sam_bench.data import cifar
from sam_bench.data.registry import DATASETS
from sam_bench.errors import ConfigError, DataError
from sam_bench.runs.run import check
from tests.conftest import everything_below, execute
from tests.damage import flip_bit
from tests.data.cifar_files import add, old_pickle, unavailable

CLASSES = DATASETS["cifar100"].classes

#: Numbers of images in the two files.
COUNTS = {"train": 1000, "test": 100}
RUN = ["data=cifar100", "model=resnet8", "trainer.epochs=1", "trainer.progress=none", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Make the two files of the Python distribution, small and of noise, with equally many images of each class."""
    generator = np.random.default_rng(0)
    files = {}
    for name, count in COUNTS.items():
        fine = generator.permutation(np.arange(count) % CLASSES)
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {b"fine_labels": fine.tolist(), b"coarse_labels": (fine // 5).tolist(), b"data": pixels}
        files[name] = old_pickle(batch)
    return files


@pytest.fixture(autouse=True)
def small_cifar100(contents, monkeypatch):
    """Expect the digests of the small files, and make the server unavailable."""
    digests = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in contents.items()}
    remote = dict.fromkeys(cifar.CIFAR100.remote, unavailable)
    monkeypatch.setattr(cifar, "CIFAR100", dataclasses.replace(cifar.CIFAR100, digests=digests, remote=remote))


def write_folder(root, contents):
    (root / "cifar-100-python").mkdir(parents=True)
    for name, content in contents.items():
        (root / "cifar-100-python" / name).write_bytes(content)


def write_archive(root, contents):
    root.mkdir(exist_ok=True)
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in (contents | {"meta": b"", "file.txt~": b""}).items():
            add(archive, f"cifar-100-python/{name}", content)


#: Functions that write the files in each layout that is read.
LAYOUTS = [write_folder, write_archive]


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_local_layout_gives_fine_labels(write, contents, tmp_path):
    write(tmp_path, contents)
    before = everything_below(tmp_path)

    train, test = cifar.load_cifar100(cifar.CIFAR100.obtain(tmp_path, timeout=1))
    assert (len(train), len(test)) == (COUNTS["train"], COUNTS["test"])
    assert set(before) <= set(everything_below(tmp_path))

    batch = pickle.loads(contents["train"], encoding="bytes")
    assert train.labels.tolist() == batch[b"fine_labels"]
    assert torch.equal(train.pixels, torch.from_numpy(batch[b"data"]).view(-1, 3, 32, 32))


@pytest.mark.parametrize("write", LAYOUTS)
def test_flipped_bit_is_refused(write, contents, tmp_path):
    write(tmp_path, contents | {"train": flip_bit(contents["train"], -1000)})
    before = everything_below(tmp_path)
    with pytest.raises(DataError, match=r"train of .*CIFAR-100.*md5"):
        cifar.load_cifar100(cifar.CIFAR100.obtain(tmp_path, timeout=1))
    assert everything_below(tmp_path) == before


def test_missing_file_is_named(contents, tmp_path):
    write_folder(tmp_path, contents)
    (tmp_path / "cifar-100-python" / "test").unlink()
    with pytest.raises(DataError, match=r"CIFAR-100.*not test\."):
        cifar.CIFAR100.obtain(tmp_path, timeout=1)


def test_archive_without_files_is_refused_by_name(tmp_path):
    write_archive(tmp_path, {})
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz .*no file train"):
        cifar.CIFAR100.obtain(tmp_path, timeout=1)
    assert everything_below(tmp_path) == ["cifar-100-python.tar.gz"]


def test_unavailable_data_error_names_ways_out(tmp_path):
    with pytest.raises(DataError) as caught:
        cifar.CIFAR100.obtain(tmp_path / "data", timeout=1)
    for text in ("CIFAR-100 ", "home server: no network", "cifar-100-python.tar.gz", "data=synthetic"):
        assert text in str(caught.value)
    assert "CIFAR-10 " not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_digests_equal_torchvisions():
    known = pytest.importorskip("torchvision.datasets").CIFAR100
    assert dict(known.train_list + known.test_list) == cifar.MD5
    assert known.base_folder == cifar.CIFAR100.folder
    assert {known.filename} == set(cifar.CIFAR100.local)


def test_run_has_a_hundred_classes(contents, folder):
    write_archive(folder / "data", contents)
    record = execute(compose.compose([*RUN, "trainer.batch_size=100", "data.train_subset=200"]))
    assert record["dataset"] == "cifar100"
    assert (record["train_images"], record["test_images"]) == (200, COUNTS["test"])
    assert record["config"]["data"]["name"] == "cifar100"
    assert record["parameters"] == 75_290 + 90 * 65
    assert record["train_loss"] == pytest.approx(4.6, abs=1.0)


def test_check_refuses_damaged_files(contents, folder):
    write_folder(folder / "data", contents | {"test": b"damaged"})
    before = everything_below(folder)
    with pytest.raises(DataError, match=r"CIFAR-100.*md5"):
        check([compose.compose(RUN)])
    assert everything_below(folder) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_subset=250", "multiple of 100"),
        ("data.train_subset=50100", "50000 training images of CIFAR-100"),
        ("trainer.label_smoothing=0.995", "at most 0.99"),
    ],
)
def test_bad_settings_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        compose.compose(["data=cifar100", override])


def test_label_smoothing_limit_depends_on_classes():
    assert compose.compose(["data=cifar100", "trainer.label_smoothing=0.95"]).trainer.label_smoothing == 0.95
