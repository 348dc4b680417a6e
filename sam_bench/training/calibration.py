"""Calibration error: the distance of a network's confidence from its accuracy."""

import torch
from torch import Tensor

BINS = 15


class CalibrationError:
    """Expected calibration error (Guo et al., 2017, arXiv:1706.04599), summed on the device over batches.

    Predictions are put into 15 bins by the probability of the predicted class, bin b from b/15 (exclusive) to
    (b + 1)/15. The error is the mean, over all predictions, of |accuracy − mean confidence| of their bin.
    """

    def __init__(self, device: torch.device):
        self.bounds = torch.linspace(0, 1, BINS + 1, device=device)[1:-1]
        self.bins = torch.arange(BINS, device=device)
        #: For each bin, the number of correct predictions minus the summed confidence of all predictions.
        self.excess = torch.zeros(BINS, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits B × K, labels B."""
        confidence, predicted = logits.float().softmax(1).max(1)
        excess = (predicted == labels).double() - confidence.double()
        is_in = torch.bucketize(confidence, self.bounds)[:, None] == self.bins
        self.excess += (excess[:, None] * is_in).sum(0)

    def percent(self, count: int) -> float:
        """Return the error of `count` predictions, in percent; waits for the device."""
        return 100 * self.excess.abs().sum().item() / count
