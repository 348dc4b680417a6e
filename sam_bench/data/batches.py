"""The batches of an epoch. Order and augmentation depend on (seed, epoch) only: every method sees the same batches."""

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
    """The B examples of a step, on one device; every tensor that is not None has B entries."""

    #: float32, B × 3 × 32 × 32.
    images: Tensor
    #: int64, from 0 to classes − 1.
    labels: Tensor
    #: With label noise: the labels without it.
    true_labels: Tensor | None = None
    #: With mixup: the labels of the images that are mixed in.
    mixed_labels: Tensor | None = None
    #: With mixup: λ, the weight of the image of `labels`.
    share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch with the function applied to each tensor."""
        return Batch(*(None if tensor is None else change(tensor) for tensor in vars(self).values()))

    def take(self, examples: Tensor | slice) -> "Batch":
        """Return a batch of some of the examples."""
        return self.each(lambda tensor: tensor[examples])

    def split(self, size: int) -> "list[Batch]":
        """Return the batch in parts of `size` examples; the last one may be smaller."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]

    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in vars(self).values() if tensor is not None]


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator that depends on the seed and the purpose only, not on anything drawn before."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


class Batches:
    """A set of images on a device, cut into augmented batches.

    Args:
        images: the images, already on the device.
        share: this process's rank and the number of processes. Each gets an equally large part of every batch.
        mixup: the α of mixup's Beta(α, α); 0 switches it off. A process mixes within its part of a batch.
        keep_last: keep the last batch of an epoch, which may be smaller. Otherwise an epoch leaves out the images that
            do not fill a batch, different ones in each epoch.
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
        in_whole_batches = len(self.labels) - len(self.labels) % batch_size
        #: Number of images in an epoch, over all processes.
        self.images = len(self.labels) if keep_last else in_whole_batches

    def __len__(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch, from batch `first` on; both count from 0.

        On CUDA, each batch is prepared while the device works on the one before.
        """
        batches = self._epoch(epoch, first)
        return batches if self.stream is None else ahead(batches, self.stream)

    def _epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        count = len(self.labels)
        device = self.labels.device
        generator = generator_for(self.seed, "epoch", epoch)

        # Drawn for the whole epoch at once, so that a run that resumes within it gets the same draws.
        order = to_device(torch.randperm(count, generator=generator), device)
        draws = self.augment.draw(count, generator).to(device)
        if self.augment.alternate_flips:
            draws = replace(draws, flip=self._alternating_flips(epoch)[order])

        rank, processes = self.share
        for step in range(first, len(self)):
            start = step * self.batch_size
            size = min(self.batch_size, self.images - start) // processes
            start_of_part = start + rank * size
            index = order[start_of_part : start_of_part + size]
            true_labels = None if self.true_labels is None else self.true_labels[index]
            batch = Batch(
                self.augment.train(self.padded, index, draws.slice(start_of_part, size)),
                self.labels[index],
                true_labels,
            )
            yield self._mix(batch, generator_for(self.seed, "mixup", epoch, step)) if self.mixup else batch

    def _alternating_flips(self, epoch: int) -> Tensor:
        """Return which images are flipped in an epoch, in the order of the set.

        The draw depends on the seed only, so a resumed run repeats it.
        """
        generator = generator_for(self.seed, "flip")
        in_first_epoch = torch.rand(len(self.labels), generator=generator) < 0.5
        return to_device(in_first_epoch ^ bool(epoch % 2), self.labels.device)

    def _mix(self, batch: Batch, generator: torch.Generator) -> Batch:
        mixture = draw_mixture(self.mixup, len(batch), generator)
        share, partner = (to_device(tensor, batch.labels.device) for tensor in mixture)
        weight = share[:, None, None, None]
        images = weight * batch.images + (1 - weight) * batch.images[partner]
        return replace(batch, images=images, mixed_labels=batch.labels[partner], share=share)

    def plain(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images and labels in the order of the set, not augmented."""
        for start in range(0, len(self.labels), batch_size):
            part = slice(start, start + batch_size)
            yield self.augment.evaluate(self.padded[part]), self.labels[part]


def ahead(batches: Iterator[Batch], stream: torch.cuda.Stream) -> Iterator[Batch]:
    """Yield the same batches, and prepare each next one on another CUDA stream before the current one is used."""

    def prepare_next() -> Batch | None:
        with torch.cuda.stream(stream):
            return next(batches, None)

    stream.wait_stream(torch.cuda.current_stream(stream.device))  # the set itself may still be copied to the device
    batch = prepare_next()
    while batch is not None:
        # The stream that trains waits for the batch, and its memory is not reused before that stream is done with it.
        training_stream = torch.cuda.current_stream(stream.device)
        training_stream.wait_stream(stream)
        for tensor in batch.tensors():
            tensor.record_stream(training_stream)
        current = batch
        batch = prepare_next()
        yield current
