"""Symmetric label noise: labels that are wrong on purpose, the same for every method and every seed of a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_bench.data.images import Images


@dataclass(frozen=True)
class LabelNoise:
    """How labels are made wrong.

    Args:
        share: of N labels, int(share · N) random ones are drawn anew.
        over: the classes that a new label is drawn from, each as likely: "all", so that a K-th of the labels drawn
            anew are right again, or "others", all but the true one.
        seed: of the draws, apart from a run's own.
    """

    share: float
    over: str = "all"
    seed: int = 0

    def apply(self, images: Images, classes: int) -> Images:
        """Return the same images with noisy labels; the true ones stay beside them.

        Raises:
            ValueError: the share is so small that no label is drawn anew.
        """
        count = len(images)
        chosen = int(self.share * count)
        if not chosen:
            raise ValueError(f"label noise of {self.share} draws none of {count} labels anew")
        generator = torch.Generator().manual_seed(self.seed)
        which = torch.randperm(count, generator=generator)[:chosen]
        labels = images.labels.clone()
        labels[which] = self._drawn(labels[which], classes, generator)
        return Images(images.pixels, labels, images.labels)

    def _drawn(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        if self.over == "all":
            return torch.randint(classes, labels.shape, generator=generator)
        return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
