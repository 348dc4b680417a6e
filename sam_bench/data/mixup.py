"""Mixup: images and losses of pairs, mixed."""

import numpy as np
import torch
from torch import Tensor


def draw_mixture(alpha: float, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw how a batch is mixed (Zhang et al., 2018, arXiv:1710.09412): one λ and one permutation π for all of it.

    The images are then `x̃ = λ x + (1 − λ) x[π]`, and the loss is `λ CE(y) + (1 − λ) CE(y[π])`. λ is drawn from
    Beta(α, α), and 1 − λ is taken where that is greater: a swap of the two roles, which changes no distribution and
    makes `y` the label of the greater part.

    Returns:
        λ for each of the examples, float32, and π, int64; both of the batch's size, on the CPU.
    """
    seed = torch.randint(2**62, (), generator=generator).item()
    share = np.random.default_rng(seed).beta(alpha, alpha)  # torch's own takes no generator
    return torch.full((size,), max(share, 1 - share)), torch.randperm(size, generator=generator)
