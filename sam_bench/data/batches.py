"""The batches of an epoch: order and augmentation come from (seed, epoch) alone, so every method sees the same ones."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sam_bench.data.augment import Augment
from sam_bench.data.images import Images
from sam_bench.data.mixup import draw_mixture
from sam_bench.runtime.device import to_device


@dataclass(frozen=True)
class Batch:
    """What a step is taken on: B examples on one device; whatever is not None has B entries."""

    #: Float32, B × 3 × 32 × 32.
    images: Tensor
    #: Int64, from 0 to classes − 1.
    labels: Tensor
    #: Where there is label noise, the labels without it.
    true_labels: Tensor | None = None
    #: With mixup, those of the images that are mixed in.
    mixed_labels: Tensor | None = None
    #: With mixup, λ: the part that the image of `labels` has.
    share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch of what the function makes of each tensor."""
        return Batch(*(None if tensor is None else change(tensor) for tensor in vars(self).values()))

    def take(self, examples: Tensor | slice) -> "Batch":
        """Return a batch of some of the examples."""
        return self.each(lambda tensor: tensor[examples])

    def split(self, size: int) -> "list[Batch]":
        """Return the batch in parts of so many examples; the last one may be smaller."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]

    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in vars(self).values() if tensor is not None]


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator that depends on the seed and the purpose, and on nothing drawn before."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


class Batches:
    """A set of images on a device, cut into augmented batches.

    Args:
        images: already on the device.
        share: this process's number and how many there are; of each batch it gets its part, all parts equally large.
        mixup: the α of mixup's Beta(α, α), 0 for none. A process mixes within its part of a batch.
        keep_last: whether the last batch of an epoch, which may be smaller, is one; if not, an epoch leaves out as many
            images as do not fill a batch, others in each.
    """

    def __init__(
        self,
        images: Images,
        augment: Augment,
        batch_size: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        keep_last: bool = True,
        mixup: float = 0.0,
    ):
        self.padded = augment.prepare(images.pixels)
        self.labels = images.labels
        self.true_labels = images.true_labels
        self.augment = augment
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.mixup = mixup
        device = images.labels.device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        whole = len(self.labels) - len(self.labels) % batch_size
        #: How many an epoch has, those of all processes together.
        self.images = len(self.labels) if keep_last else whole

    def __len__(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch, from the given one on; both count from 0.

        On CUDA each is prepared while the device works on another.
        """
        batches = self._epoch(epoch, first)
        return batches if self.stream is None else ahead(batches, self.stream)

    def _epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        count = len(self.labels)
        device = self.labels.device
        generator = generator_for(self.seed, "epoch", epoch)
        order = to_device(torch.randperm(count, generator=generator), device)
        draws = self.augment.draw(count, generator).to(device)
        if self.augment.alternate_flips:
            draws = replace(draws, flip=self._alternating_flips(epoch)[order])
        number, of = self.share
        for step in range(first, len(self)):
            start = step * self.batch_size
            size = min(self.batch_size, self.images - start) // of
            own = start + number * size
            index = order[own : own + size]
            true = None if self.true_labels is None else self.true_labels[index]
            batch = Batch(self.augment.train(self.padded, index, draws.slice(own, size)), self.labels[index], true)
            yield self._mixed(batch, generator_for(self.seed, "mixup", epoch, step)) if self.mixup else batch

    def _alternating_flips(self, epoch: int) -> Tensor:
        """Return which images are flipped in an epoch, in their own order.

        The draw is made anew from the seed, so a resumed run has it without having kept it.
        """
        generator = generator_for(self.seed, "flip")
        first = torch.rand(len(self.labels), generator=generator) < 0.5
        return to_device(first ^ bool(epoch % 2), self.labels.device)

    def _mixed(self, batch: Batch, generator: torch.Generator) -> Batch:
        drawn = draw_mixture(self.mixup, len(batch), generator)
        share, partner = (to_device(each, batch.labels.device) for each in drawn)
        part = share[:, None, None, None]
        images = part * batch.images + (1 - part) * batch.images[partner]
        return replace(batch, images=images, mixed_labels=batch.labels[partner], share=share)

    def plain(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their own order, not augmented."""
        for start in range(0, len(self.labels), batch_size):
            here = slice(start, start + batch_size)
            yield self.augment.evaluate(self.padded[here]), self.labels[here]


def ahead(batches: Iterator[Batch], stream: torch.cuda.Stream) -> Iterator[Batch]:
    """The same batches, each prepared on another CUDA stream as soon as the one before is given away."""

    def prepared() -> Batch | None:
        with torch.cuda.stream(stream):
            return next(batches, None)

    stream.wait_stream(torch.cuda.current_stream(stream.device))  # the images themselves may still be on their way
    batch = prepared()
    while batch is not None:
        present = torch.cuda.current_stream(stream.device)
        present.wait_stream(stream)
        for tensor in batch.tensors():
            tensor.record_stream(present)  # its memory is not used again before what is done with it now
        given = batch
        batch = prepared()
        yield given
