"""The batches of an epoch: order and augmentation come from (seed, epoch) alone, so every method sees the same ones."""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sam_bench.data.augment import Augment, Draws
from sam_bench.data.images import Images


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator that depends on the seed and the purpose, and on nothing drawn before."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


class Batches:
    """A set of images on a device, cut into augmented batches.

    Args:
        images: already on the device.
        batch_size: the last batch of an epoch may be smaller.
        share: this process's number and how many there are; of each batch it gets its part, all parts equally large.
    """

    def __init__(self, images: Images, augment: Augment, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)):
        self.padded, self.labels = augment.prepare(images.pixels), images.labels
        self.augment, self.batch_size, self.seed, self.share = augment, batch_size, seed, share

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of the batches of an epoch, from the given one on; both count from 0."""
        count, device = len(self.labels), self.labels.device
        generator = generator_for(self.seed, "epoch", epoch)
        order = torch.randperm(count, generator=generator).to(device)
        draws = Draws.of(count, generator).to(device)
        number, of = self.share
        for start in range(first * self.batch_size, count, self.batch_size):
            size = min(self.batch_size, count - start) // of
            own = start + number * size
            index = order[own : own + size]
            yield self.augment.train(self.padded, index, draws.slice(own, size)), self.labels[index]

    def plain(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their own order, not augmented."""
        for start in range(0, len(self.labels), batch_size):
            here = slice(start, start + batch_size)
            yield self.augment.evaluate(self.padded[here]), self.labels[here]
