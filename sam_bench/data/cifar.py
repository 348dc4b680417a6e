"""CIFAR-10: six binary files, accepted only with the right sha256 (Krizhevsky, 2009)."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from sam_bench.data.images import Images
from sam_bench.errors import DataError

SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""The files of the binary distribution."""

RECORDS = 10_000
"""In each file."""

RECORD = 1 + 3 * 32 * 32
"""Bytes: a label, then the red, the green and the blue pixels, row by row."""

FOLDER = "cifar-10-batches-bin"

ANEW = "move it away and run again to obtain CIFAR-10 anew"


def check(name: str, content: bytes, source: object) -> None:
    """Accept the content of one of the six files, or refuse it.

    Args:
        source: the file, archive or server that it comes from.

    Raises:
        DataError: its sha256 is not the right one.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(f"{name} of {source} is not CIFAR-10's: its sha256 is {digest}, not {SHA256[name]}")


def find(root: Path) -> Path | None:
    """The folder under `root` (or `root` itself) that holds the binary files, if there is one.

    Raises:
        DataError: some of the six files are missing, or a folder of the usual name holds other things.
    """
    for folder in (root / FOLDER, root):
        missing = [name for name in SHA256 if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(SHA256):
            raise DataError(
                f"{folder} holds some of CIFAR-10's binary files, but not {', '.join(missing)}. "
                f"Add what is missing, or {ANEW}."
            )
    if (root / FOLDER).exists() and (not (root / FOLDER).is_dir() or any((root / FOLDER).iterdir())):
        raise DataError(f"{root / FOLDER} holds none of CIFAR-10's binary files; {ANEW}")
    return None


def load(folder: Path) -> tuple[Images, Images]:
    """The training and the test set, every byte verified.

    Raises:
        DataError: a file's sha256 is not the right one.
    """
    contents = {}
    for name in SHA256:
        contents[name] = (folder / name).read_bytes()
        check(name, contents[name], f"{folder} ({ANEW})")
    *train, test = (np.frombuffer(content, np.uint8).reshape(-1, RECORD) for content in contents.values())
    return _images(np.concatenate(train)), _images(test)


def _images(records: np.ndarray) -> Images:
    pixels = torch.from_numpy(records[:, 1:].copy()).view(-1, 3, 32, 32)
    return Images(pixels, torch.from_numpy(records[:, 0].astype(np.int64)))
