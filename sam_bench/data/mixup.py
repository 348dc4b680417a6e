"""Mixup: weighted means of pairs of images, and of their losses."""

import numpy as np
import torch
from torch import Tensor


def draw_mixture(alpha: float, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one λ and one permutation π for a whole batch (Zhang et al., 2018, arXiv:1710.09412).

    The images are then `x̃ = λ x + (1 − λ) x[π]`, and the loss is `λ CE(y) + (1 − λ) CE(y[π])`. λ is drawn from
    Beta(α, α), and replaced by 1 − λ if that is greater. This swaps the two images of a pair, which changes no
    distribution, and makes `y` the label of the image with the larger weight.

    Args:
        alpha: the α of Beta(α, α).
        size: the number of examples in the batch.

    Returns:
        λ for each example, float32, and π, int64; both of length `size`, on the CPU.
    """
    seed = torch.randint(2**62, (), generator=generator).item()
    share = np.random.default_rng(seed).beta(alpha, alpha)  # torch's Beta takes no generator
    return torch.full((size,), max(share, 1 - share)), torch.randperm(size, generator=generator)
