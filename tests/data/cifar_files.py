"""Small files of noise in the formats of CIFAR-10 and CIFAR-100, and the layouts of a data folder."""

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sam_bench.data import cifar
from sam_bench.data.download import Unavailable

#: Number of images in each of CIFAR-10's files.
IMAGES = 200


def cifar10_contents() -> dict[str, bytes]:
    """Make CIFAR-10's six files in the binary format, with equally many images of each class."""
    generator = np.random.default_rng(0)
    files = {}
    for name in cifar.SHA256:
        records = generator.integers(0, 256, (IMAGES, cifar.RECORD), dtype=np.uint8)
        records[:, 0] = generator.permutation(np.arange(IMAGES) % 10)
        files[name] = records.tobytes()
    return files


def examples(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and the pixels, N × 3072, of a file in the binary format."""
    records = np.frombuffer(content, np.uint8).reshape(-1, cifar.RECORD)
    return records[:, 0], records[:, 1:]


def unavailable(timeout: float) -> Iterator[tuple[str, bytes]]:
    """Take the place of a remote source that cannot be reached."""
    raise Unavailable("no network here")
    yield


def old_pickle(batch: dict[bytes, Any]) -> bytes:
    """Pickle as in the Python distributions: protocol 2, numpy's old module names."""
    return pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch_pickle(content: bytes) -> bytes:
    """Convert a file of the binary format to one of the Python distribution."""
    labels, pixels = examples(content)
    return old_pickle({b"labels": labels.tolist(), b"data": pixels.copy()})


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_binary_folder(root: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (root / name).write_bytes(content)


def write_named_binary_folder(root: Path, contents: dict[str, bytes]) -> None:
    (root / cifar.CIFAR10.folder).mkdir(parents=True)
    write_binary_folder(root / cifar.CIFAR10.folder, contents)


def write_binary_archive(root: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            add(archive, f"cifar-10-batches-bin/{name}", content)


def write_python_folder(root: Path, contents: dict[str, bytes]) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name.removesuffix(".bin")).write_bytes(batch_pickle(content))


def write_python_archive(root: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            add(archive, f"cifar-10-batches-py/{name.removesuffix('.bin')}", batch_pickle(content))


#: Functions that write CIFAR-10's files in each layout that is read.
CIFAR10_LAYOUTS = [
    write_binary_folder,
    write_named_binary_folder,
    write_binary_archive,
    write_python_folder,
    write_python_archive,
]
