"""CIFAR-100 from what may lie in the data folder, and from its server; with a small stand-in for the real files."""

import dataclasses
import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch

from sam_bench.cli import compose
from sam_bench.data import cifar
from sam_bench.data.download import Unavailable
from sam_bench.data.registry import DATASETS
from sam_bench.errors import ConfigError, DataError
from sam_bench.runs.run import check
from tests.conftest import everything_below, execute
from tests.data.test_cifar10 import add

CLASSES = DATASETS["cifar100"].classes
COUNTS = {"train": 1000, "test": 100}
RUN = ["data=cifar100", "model=resnet8", "trainer.epochs=1", "trainer.progress=none", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """The two files of the Python distribution, of noise, equally many images of each class."""
    generator = np.random.default_rng(0)
    made = {}
    for name, count in COUNTS.items():
        fine = generator.permutation(np.arange(count) % CLASSES)
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {b"fine_labels": fine.tolist(), b"coarse_labels": (fine // 5).tolist(), b"data": pixels}
        made[name] = pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return made


@pytest.fixture(autouse=True)
def stand_in(contents, monkeypatch):
    """Digests are those of the made-up files, and the server is not reached."""

    def unavailable(timeout):
        raise Unavailable("no network here")
        yield

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


LOCAL = [write_folder, write_archive]


@pytest.mark.parametrize("write", LOCAL)
def test_whatever_lies_in_the_root_becomes_images_with_fine_labels(write, contents, tmp_path):
    write(tmp_path, contents)
    before = everything_below(tmp_path)
    train, test = cifar.load_cifar100(cifar.CIFAR100.obtain(tmp_path, timeout=1))
    assert (len(train), len(test)) == (COUNTS["train"], COUNTS["test"])
    assert set(before) <= set(everything_below(tmp_path))
    batch = pickle.loads(contents["train"], encoding="bytes")
    assert train.labels.tolist() == batch[b"fine_labels"]
    assert torch.equal(train.pixels, torch.from_numpy(batch[b"data"]).view(-1, 3, 32, 32))


@pytest.mark.parametrize("write", LOCAL)
def test_one_flipped_bit_is_refused(write, contents, tmp_path):
    content = bytearray(contents["train"])
    content[-1000] ^= 1
    write(tmp_path, contents | {"train": bytes(content)})
    before = everything_below(tmp_path)
    with pytest.raises(DataError, match=r"train of .*is not the original file of CIFAR-100: its md5 is"):
        cifar.load_cifar100(cifar.CIFAR100.obtain(tmp_path, timeout=1))
    assert everything_below(tmp_path) == before


def test_a_missing_file_is_named(contents, tmp_path):
    write_folder(tmp_path, contents)
    (tmp_path / "cifar-100-python" / "test").unlink()
    with pytest.raises(DataError, match=r"some of CIFAR-100's files, but not test\. .*to get a new copy of CIFAR-100"):
        cifar.CIFAR100.obtain(tmp_path, timeout=1)


def test_an_archive_without_the_files_is_refused_by_name(tmp_path):
    write_archive(tmp_path, {})
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz cannot be used .*no file train"):
        cifar.CIFAR100.obtain(tmp_path, timeout=1)
    assert everything_below(tmp_path) == ["cifar-100-python.tar.gz"]


def test_when_it_cannot_be_had_the_error_says_what_to_do_and_nothing_is_left(tmp_path):
    with pytest.raises(DataError) as failure:
        cifar.CIFAR100.obtain(tmp_path / "data", timeout=1)
    for said in ("CIFAR-100 could not", "home server: no network", "put cifar-100-python.tar.gz", "data=synthetic"):
        assert said in str(failure.value)
    assert "CIFAR-10 " not in str(failure.value)
    assert not (tmp_path / "data").exists()


def test_the_digests_are_torchvisions():
    known = pytest.importorskip("torchvision.datasets").CIFAR100
    assert dict(known.train_list + known.test_list) == cifar.MD5
    assert known.base_folder == cifar.CIFAR100.folder
    assert {known.filename} == set(cifar.CIFAR100.local)


def test_a_run_trains_on_it_with_a_hundred_classes(contents, folder):
    write_archive(folder / "data", contents)
    record = execute(compose.compose([*RUN, "trainer.batch_size=100", "data.train_subset=200"]))
    assert record["dataset"] == "cifar100"
    assert (record["train_images"], record["test_images"]) == (200, COUNTS["test"])
    assert record["config"]["data"]["name"] == "cifar100"
    assert record["parameters"] == 75_290 + 90 * 65
    assert record["train_loss"] == pytest.approx(4.6, abs=1.0)


def test_damaged_files_are_found_before_anything_is_created(contents, folder):
    write_folder(folder / "data", contents | {"test": b"damaged"})
    before = everything_below(folder)
    with pytest.raises(DataError, match="original file of CIFAR-100: its md5"):
        check([compose.compose(RUN)])
    assert everything_below(folder) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train_subset=250", "not a multiple of 100, the classes of CIFAR-100"),
        ("data.train_subset=50100", "more than the 50000 training images of CIFAR-100"),
        ("trainer.label_smoothing=0.995", "data=cifar100 it must be at most 0.99"),
    ],
)
def test_what_is_impossible_is_said_of_this_data_set(override, said):
    with pytest.raises(ConfigError, match=said):
        compose.compose(["data=cifar100", override])


def test_what_ten_classes_do_not_allow_a_hundred_do():
    assert compose.compose(["data=cifar100", "trainer.label_smoothing=0.95"]).trainer.label_smoothing == 0.95
