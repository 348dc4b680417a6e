"""A generated data set that a model can learn, for tests and for machines without internet access."""

from pathlib import Path

import torch
import torch.nn.functional as F

from sam_bench.data.images import Images
from sam_bench.data.registry import DATASETS

CLASSES = DATASETS["synthetic"].classes
TRAIN = DATASETS["synthetic"].train_images
TEST = DATASETS["synthetic"].test_images
_SEED = 40_961


def load(folder: Path | None = None) -> tuple[Images, Images]:
    """Return the training and the test set: always the same images, equally many of each class.

    Each class has a smooth random pattern in colour. An image is the pattern of its class, shifted, with random
    contrast and noise.

    Args:
        folder: not used; loaders of other data sets need it.
    """
    generator = torch.Generator().manual_seed(_SEED)
    coarse = torch.randn(CLASSES, 3, 6, 6, generator=generator)
    patterns = F.interpolate(coarse, size=(40, 40), mode="bicubic", align_corners=True)
    return _draw(patterns, TRAIN, generator), _draw(patterns, TEST, generator)


def _draw(patterns: torch.Tensor, count: int, generator: torch.Generator) -> Images:
    labels = torch.arange(count) % CLASSES
    rows, columns = torch.randint(0, 9, (2, count, 1), generator=generator) + torch.arange(32)
    image = torch.arange(count)[:, None, None]
    shifted = patterns[labels][image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    contrast = 20 + 30 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = 40 * torch.randn(count, 3, 32, 32, generator=generator)
    return Images((128 + contrast * shifted + noise).clamp(0, 255).to(torch.uint8), labels)
