"""Augmentation of a whole batch at once: one gather for crop and flip, one multiplication for cutout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_bench.data.registry import CUTOUT, CUTOUT_PROBABILITY, PADDING
from sam_bench.runtime.device import to_device

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """The box of zeros that cutout puts into some images.

    Args:
        size: the number of its rows and columns.
        probability: the share of the images that get a box.
        inside: keep the whole box within the image. Otherwise up to half of it may be outside on each axis, and is
            clipped.
    """

    size: int = CUTOUT
    probability: float = CUTOUT_PROBABILITY
    inside: bool = False

    @property
    def corners(self) -> tuple[int, int]:
        """Return the range of the box's first row, which is also that of its first column; the end is exclusive."""
        return (0, 32 - self.size + 1) if self.inside else (-(self.size // 2), 32 - self.size // 2)


@dataclass(frozen=True)
class Draws:
    """The random decisions for N images; each tensor has N entries."""

    crop_row: Tensor
    crop_column: Tensor
    flip: Tensor
    cutout: Tensor
    cutout_row: Tensor
    cutout_column: Tensor

    @staticmethod
    def of(count: int, generator: torch.Generator, padding: int = PADDING, box: Box = Box()) -> "Draws":
        """Draw the random decisions for `count` images.

        Everything is drawn, whether it is used or not. So switching one augmentation off does not change the others.

        Args:
            padding: pixels of padding on each side of an image.
        """

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (count,), generator=generator)

        def chance(probability: float) -> Tensor:
            return torch.rand(count, generator=generator) < probability

        return Draws(
            crop_row=integers(0, 2 * padding + 1),
            crop_column=integers(0, 2 * padding + 1),
            flip=chance(0.5),
            cutout=chance(box.probability),
            cutout_row=integers(*box.corners),
            cutout_column=integers(*box.corners),
        )

    def to(self, device: torch.device) -> "Draws":
        return Draws(**{name: to_device(value, device) for name, value in vars(self).items()})

    def slice(self, start: int, count: int) -> "Draws":
        """Return the draws for `count` consecutive images."""
        return Draws(**{name: value[start : start + count] for name, value in vars(self).items()})


class Augment:
    """Augmentation from uint8 pixels to a network's input, in channels_last memory.

    The steps, in this order; each can be switched off:

    - padding, by default of 4 pixels, and a random 32×32 crop;
    - horizontal flip with probability 1/2;
    - normalisation with the data set's mean and standard deviation;
    - cutout (DeVries & Taylor, 2017, arXiv:1708.04552, as in the SAM example): by default, with probability 1/2, a
      16×16 box of zeros whose corner is uniform in [−8, 24) on each axis, clipped to the image.

    Args:
        normalise: mean and standard deviation of red, green and blue, for pixels between 0 and 1; None leaves the
            pixels as they are.
        padding: "zeros", or "reflect" for the image mirrored at its outermost pixels, which are not repeated.
        padding_pixels: pixels of padding on each side.
        box: the box of cutout.
        alternate_flips: flip each image at random in the first epoch, and reverse all flips in every other epoch, as
            airbench94 does (Jordan, 2024, arXiv:2404.00498). Any two consecutive epochs show an image both ways.
    """

    def __init__(
        self,
        crop: bool,
        flip: bool,
        normalise: tuple[RGB, RGB] | None,
        cutout: bool,
        device: torch.device,
        padding: str = "zeros",
        padding_pixels: int = PADDING,
        box: Box = Box(),
        alternate_flips: bool = False,
    ):
        self.crop = crop
        self.flip = flip
        self.cutout = cutout
        self.padding = padding
        self.padding_pixels = padding_pixels
        self.box = box
        self.alternate_flips = alternate_flips
        mean, std = normalise or ((0.0,) * 3, (1.0,) * 3)
        self.mean = 255 * torch.tensor(mean, device=device)
        self.scale = 1 / (255 * torch.tensor(std, device=device))
        self.line = torch.arange(32, device=device)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw the random decisions for `count` images."""
        return Draws.of(count, generator, self.padding_pixels, self.box)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Pad a whole set once, from N × 3 × 32 × 32 to N × rows × columns × 3; both uint8."""
        margin = self.padding_pixels
        if self.padding == "reflect":  # torch cannot mirror uint8 on CUDA
            line = torch.arange(-margin, 32 + margin, device=pixels.device)
            mirrored = 31 - (31 - line.abs()).abs()
            padded = pixels[:, :, mirrored][:, :, :, mirrored]
        else:
            padded = torch.nn.functional.pad(pixels, (margin,) * 4)
        return padded.permute(0, 2, 3, 1).contiguous()

    def train(self, padded: Tensor, index: Tensor, draws: Draws) -> Tensor:
        """Return augmented images of a prepared set: float32, B × 3 × 32 × 32.

        Args:
            index: the B images of the set.
            draws: the random decisions for these images, in the order of `index`.
        """
        # Flip and crop only choose other rows and columns: one gather does both.
        rows = self.line + (draws.crop_row[:, None] if self.crop else self.padding_pixels)
        columns = (self.line.expand(len(index), -1), 31 - self.line.expand(len(index), -1))
        columns = torch.where(draws.flip[:, None], columns[1], columns[0]) if self.flip else columns[0]
        columns = columns + (draws.crop_column[:, None] if self.crop else self.padding_pixels)
        rows = rows.expand(len(index), -1)
        images = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]

        images = (images - self.mean).mul_(self.scale)
        if self.cutout:
            images.mul_(self._outside_box(draws)[..., None])
        return images.permute(0, 3, 1, 2)

    def evaluate(self, padded: Tensor) -> Tensor:
        """Return the images of a prepared set, only normalised: float32, N × 3 × 32 × 32."""
        inside = slice(self.padding_pixels, -self.padding_pixels)
        images = padded[:, inside, inside]
        return (images - self.mean).mul_(self.scale).permute(0, 3, 1, 2)

    def _outside_box(self, draws: Draws) -> Tensor:
        """Return a mask, B × 32 × 32, that is False within the boxes of cutout."""
        row, column = (self.line - corner[:, None] for corner in (draws.cutout_row, draws.cutout_column))
        rows, columns = ((offset >= 0) & (offset < self.box.size) for offset in (row, column))
        box = rows[:, :, None] & columns[:, None, :] & draws.cutout[:, None, None]
        return ~box
