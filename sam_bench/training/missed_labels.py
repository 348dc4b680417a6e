"""Training error on all labels, on the correct ones, and on the wrong ones."""

import torch
from torch import Tensor


class MissedLabels:
    """Counts of predictions that differ from the training labels, summed on the device."""

    def __init__(self, device: torch.device):
        #: Labels that were not predicted; wrong labels; wrong labels that were not predicted; wrong labels whose true
        #: class was not predicted.
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, labels: Tensor, true_labels: Tensor | None) -> None:
        """Add the predicted classes of a batch; without label noise `true_labels` is None."""
        missed = predicted != labels
        if true_labels is None:
            self.counts[0] += missed.sum()
            return

        wrong = labels != true_labels
        kinds = (missed, wrong, wrong & missed, wrong & (predicted != true_labels))
        self.counts += torch.stack([each.sum() for each in kinds])

    def errors(self, images: int) -> dict[str, float]:
        """Return the training error over `images` images, in percent; waits for the device.

        With label noise there are three more. `right_label_error` is the error on images with correct labels.
        `wrong_label_error` is the error on images with wrong labels; 100 minus it is the share of wrong labels that are
        memorised. `wrong_label_true_error` is the error on the same images against their true classes.
        """
        missed, wrong, missed_wrong, missed_true = self.counts.tolist()
        errors = {"train_error": 100 * missed / images}
        if wrong:
            errors["right_label_error"] = 100 * (missed - missed_wrong) / (images - wrong)
            errors["wrong_label_error"] = 100 * missed_wrong / wrong
            errors["wrong_label_true_error"] = 100 * missed_true / wrong
        return errors
