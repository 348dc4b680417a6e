"""Test-time augmentation: logits that are averaged over mirrored and shifted copies of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Pixels by which an image is shifted, along both axes at once.
SHIFT = 1


class AveragedViews(nn.Module):
    """A network whose logits are averaged over six views of an image, as airbench94 measures its error.

    The views are the image, the image shifted by one pixel up and left, the image shifted by one pixel down and right,
    and the mirror image of each. Shifts use reflect padding. The two unshifted views have half of the weight (Jordan,
    2024, arXiv:2404.00498).

    Args:
        network: returns B × K logits for B × 3 × H × W images.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
        up, down = (padded[:, :, start : start + height, start : start + width] for start in (0, 2 * SHIFT))
        return 0.5 * self._mirrored(images) + 0.25 * self._mirrored(up) + 0.25 * self._mirrored(down)

    def _mirrored(self, images: Tensor) -> Tensor:
        """Return the mean logits of images and of their mirror images."""
        # All views have the same memory format, so that a compiled network is compiled only once.
        views = (view.contiguous(memory_format=torch.channels_last) for view in (images, images.flip(3)))
        return 0.5 * sum(self.network(view) for view in views)
