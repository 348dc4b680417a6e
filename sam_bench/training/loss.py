"""Cross-entropy, with mixup and with both common forms of label smoothing."""

import torch.nn.functional as F
from torch import Tensor

from sam_bench.data.batches import Batch


def smoothing_for_torch(smoothing: float, over: str, classes: int) -> float:
    """Return the `label_smoothing` of torch's cross-entropy that is equivalent to ours.

    Args:
        smoothing: the probability s taken from the true class.
        over: the classes that s is spread over. "all": all K classes, as in torch. "others": the K − 1 other classes,
            as in the SAM example. The target is then 1 − s for the true class and s / (K − 1) for each other one, which
            is torch's form with s K / (K − 1).
    """
    return smoothing * classes / (classes - 1) if over == "others" else smoothing


def batch_loss(logits: Tensor, batch: Batch, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Return the `cross_entropy` of a batch; with mixup `λ CE(y) + (1 − λ) CE(y[π])`."""
    if batch.share is None:
        return cross_entropy(logits, batch.labels, label_smoothing, reduction)
    own, other = (
        cross_entropy(logits, labels, label_smoothing, "none") for labels in (batch.labels, batch.mixed_labels)
    )
    mixed = batch.share * own + (1 - batch.share) * other
    return mixed if reduction == "none" else mixed.mean()


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Return the mean cross-entropy in nats, or with reduction "none" each example's, computed in at least float32."""
    if logits.element_size() < 4:
        logits = logits.float()
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction=reduction)
