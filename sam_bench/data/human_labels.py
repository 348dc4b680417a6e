"""CIFAR-10N: the labels that people gave to CIFAR-10's training images (Wei et al., ICLR 2022, arXiv:2110.12088).

Its authors publish one file under CC BY-NC 4.0. It is read where a user has put it, and downloaded from nowhere.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct
from torch import Tensor

from sam_bench.data.images import Images
from sam_bench.data.registry import HUMAN_LABELS
from sam_bench.errors import DataError

FILE = "CIFAR-10_human.pt"
SHA256 = "873e69c39cb9b5e97fb6bae2d60bb59b38a5cbc31d2b868f7903dcb2b9dd2310"
SOURCE = f"data/{FILE} in the GitHub repository UCSC-REAL/cifar-10-100n (licence CC BY-NC 4.0)"

# numpy has moved this function, and the published file names its old place.
_ARRAYS = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Int64DType,
]


@dataclass(frozen=True)
class HumanLabels:
    """A choice of CIFAR-10N's labels, to be put in the place of the true ones.

    Args:
        name: one of `HUMAN_LABELS`, as in `data.labels`.
        root: the folder that holds the file, `data.root`.
    """

    name: str
    root: Path

    @property
    def path(self) -> Path:
        """The file of all its labels."""
        return self.root / FILE

    def check_presence(self) -> None:
        """Check that the file is there.

        Raises:
            DataError: it is missing.
        """
        if not self.path.is_file():
            raise DataError(
                f"data.labels={self.name} needs {self.path}, and there is no such file. Its authors publish it as "
                f"{SOURCE}: put it into {self.root}."
            )

    def read(self) -> dict[str, Tensor]:
        """Return the arrays of the file by their names, int64, one entry for each training image.

        Raises:
            DataError: the file is missing, or its digest is not that of the published one.
        """
        self.check_presence()
        content = self.path.read_bytes()

        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256:
            raise DataError(
                f"{self.path} is not CIFAR-10N's file: its sha256 is {digest}, not {SHA256}. Replace it with {SOURCE}."
            )

        # Nothing but arrays can be made of it, even if somebody changes the digest above for a file of their own.
        with torch.serialization.safe_globals(_ARRAYS):
            arrays = torch.load(io.BytesIO(content), weights_only=True)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def apply(self, images: Images, classes: int) -> Images:
        """Return the training images with people's labels; the true ones stay beside them.

        Args:
            images: all of CIFAR-10's training images, in the order of its batches.
            classes: not used; every kind of label noise takes it.

        Raises:
            DataError: the file cannot be used, or it is of other images.
        """
        arrays = self.read()

        # The two files are joined by position alone: this is the only sign that they are in the same order.
        if not torch.equal(arrays["clean_label"], images.labels):
            raise DataError(
                f"{self.path} is of other images: its clean_label must equal the training labels of CIFAR-10, and "
                "does not. Obtain CIFAR-10 again."
            )
        return Images(images.pixels, arrays[HUMAN_LABELS[self.name]], images.labels)
