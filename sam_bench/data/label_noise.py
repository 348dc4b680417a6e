"""Symmetric label noise: random labels, the same for every method and every seed of a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_bench.data.images import Images


@dataclass(frozen=True)
class LabelNoise:
    """A recipe for label noise.

    Args:
        share: the share of labels to replace: of N labels, int(share · N), chosen at random.
        over: the classes that a new label is drawn from, all equally likely. "all" includes the true class, so one in
            K new labels is correct; "others" leaves it out.
        seed: the seed of the noise, separate from the run's own.
    """

    share: float
    over: str = "all"
    seed: int = 0

    def apply(self, images: Images, classes: int) -> Images:
        """Return the same images with noisy labels; the true labels are kept as `true_labels`.

        Raises:
            ValueError: the share is so small that no label is replaced.
        """
        count = len(images)
        replaced = int(self.share * count)
        if not replaced:
            raise ValueError(f"label noise of {self.share} is too small: it replaces none of {count} labels")

        generator = torch.Generator().manual_seed(self.seed)
        noisy = torch.randperm(count, generator=generator)[:replaced]
        labels = images.labels.clone()
        labels[noisy] = self._draw_labels(labels[noisy], classes, generator)
        return Images(images.pixels, labels, images.labels)

    def _draw_labels(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        if self.over == "all":
            return torch.randint(classes, labels.shape, generator=generator)
        return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
