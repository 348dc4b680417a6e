"""How many training labels a network misses: of all, of the right ones, and of those that are wrong."""

import torch
from torch import Tensor


class MissedLabels:
    """Counts of predictions on the training images, summed on the device."""

    def __init__(self, device: torch.device):
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)
        """Labels missed; wrong labels; of these, those that are missed, and those whose true class is missed."""

    def update(self, predicted: Tensor, labels: Tensor, true_labels: Tensor | None) -> None:
        """Add the predicted classes of a batch; without label noise there are no true labels beside the labels."""
        missed = predicted != labels
        if true_labels is None:
            self.counts[0] += missed.sum()
            return
        wrong = labels != true_labels
        found = (missed, wrong, wrong & missed, wrong & (predicted != true_labels))
        self.counts += torch.stack([each.sum() for each in found])

    def errors(self, images: int) -> dict[str, float]:
        """Return the training error, in percent; waits for the device.

        With label noise also `right_label_error`, on the images whose labels are right, and, on the others,
        `wrong_label_error` against the labels (100 less it is the share that is memorised) and
        `wrong_label_true_error` against the true classes (100 less it is the share that is seen through).
        """
        missed, wrong, missed_wrong, missed_true = self.counts.tolist()
        errors = {"train_error": 100 * missed / images}
        if wrong:
            errors["right_label_error"] = 100 * (missed - missed_wrong) / (images - wrong)
            errors["wrong_label_error"] = 100 * missed_wrong / wrong
            errors["wrong_label_true_error"] = 100 * missed_true / wrong
        return errors
