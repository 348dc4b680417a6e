"""Cross-entropy with label smoothing, in the two forms that are in use."""

import torch.nn.functional as F
from torch import Tensor


def smoothing_for_torch(smoothing: float, over: str, classes: int) -> float:
    """The `label_smoothing` of torch's cross-entropy that stands for ours.

    Args:
        smoothing: the probability s taken from the true class.
        over: "all": spread over all K classes, torch's own form. "others": over the K − 1 others, as in the SAM
            example; the target is then 1 − s, and s / (K − 1) elsewhere, which is torch's form with s K / (K − 1).
    """
    return smoothing * classes / (classes - 1) if over == "others" else smoothing


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """The mean over the batch, or with reduction "none" each example's, in nats, computed in at least float32."""
    if logits.element_size() < 4:
        logits = logits.float()
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction=reduction)
