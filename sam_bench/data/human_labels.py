"""CIFAR-10N: human labels of CIFAR-10's training images (Wei et al., ICLR 2022, arXiv:2110.12088).

The authors publish one file under CC BY-NC 4.0. The user puts it into `data.root`; it is never downloaded.
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

# numpy has moved `_reconstruct`, and the published file refers to its old place.
_ARRAYS = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Int64DType,
]


@dataclass(frozen=True)
class HumanLabels:
    """One of CIFAR-10N's sets of labels, which replaces the true labels.

    Args:
        name: the set of labels, a key of `HUMAN_LABELS`, as in `data.labels`.
        root: the folder that holds the file, `data.root`.
    """

    name: str
    root: Path

    @property
    def path(self) -> Path:
        """Return the path of the file that holds all sets of labels."""
        return self.root / FILE

    def check_presence(self) -> None:
        """Check that the file exists.

        Raises:
            DataError: the file is missing.
        """
        if not self.path.is_file():
            raise DataError(
                f"data.labels={self.name} needs {self.path}, and there is no such file. It is published as {SOURCE}: "
                f"put it into {self.root}."
            )

    def read(self) -> dict[str, Tensor]:
        """Return the file's arrays by name: int64, with one entry for each training image.

        Raises:
            DataError: the file is missing, or its digest is not that of the published file.
        """
        self.check_presence()
        content = self.path.read_bytes()

        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256:
            raise DataError(
                f"{self.path} is not the original file of CIFAR-10N: its sha256 is {digest}, not {SHA256}. "
                f"Replace it with {SOURCE}."
            )

        # Only arrays can be unpickled, even if somebody changes the digest above for another file.
        with torch.serialization.safe_globals(_ARRAYS):
            arrays = torch.load(io.BytesIO(content), weights_only=True)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def apply(self, images: Images, classes: int) -> Images:
        """Return the training images with human labels; the true labels are kept as `true_labels`.

        Args:
            images: all of CIFAR-10's training images, in the order of its batches.
            classes: not used; every kind of label noise takes it.

        Raises:
            DataError: the file cannot be used, or its true labels are not those of the images.
        """
        arrays = self.read()

        # Labels and images are matched by position only. Equal true labels are the only sign of an equal order.
        if not torch.equal(arrays["clean_label"], images.labels):
            raise DataError(
                f"{self.path} does not fit these images: its clean_label must equal the training labels of CIFAR-10. "
                "Get CIFAR-10 again."
            )
        return Images(images.pixels, arrays[HUMAN_LABELS[self.name]], images.labels)
