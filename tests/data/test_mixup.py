"""Tests of mixup against its formula: a batch's images, its loss, and steps of one and of two passes."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from sam_bench.data.augment import Augment
from sam_bench.data.batches import Batch, Batches, generator_for
from sam_bench.data.images import Images
from sam_bench.data.mixup import draw_mixture
from sam_bench.optim.registry import METHODS, method
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.loss import batch_loss
from sam_bench.training.step import Step

CPU = torch.device("cpu")
RHO, LR = 0.3, 0.1


def make_batches(mixup: float, seed: int = 0, share: tuple[int, int] = (0, 1)) -> Batches:
    """Return batches of 50 images, or of this process's share of them: its rank and the number of processes."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(50) % 10)
    return Batches(images, Augment(True, True, None, True, CPU), 10, seed, share, mixup=mixup)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_share_is_greater_part_of_beta(alpha):
    shares = [float(draw_mixture(alpha, 4, generator_for(0, number))[0][0]) for number in range(2000)]
    assert min(shares) >= 0.5
    beta = np.random.default_rng(0).beta(alpha, alpha, 2000)
    assert stats.ks_2samp(shares, np.maximum(beta, 1 - beta)).pvalue > 1e-3


def test_each_image_is_partner_once_with_equal_share():
    share, partner = draw_mixture(1.0, 20, generator_for(0, "mixup"))
    assert sorted(partner.tolist()) == list(range(20))
    assert len(set(share.tolist())) == 1


@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_batch_is_mixed_with_itself(share):
    weights = set()
    plain_batches, mixed_batches = (make_batches(mixup, share=share).epoch(2) for mixup in (0.0, 1.0))
    for plain, mixed in zip(plain_batches, mixed_batches, strict=True):
        assert torch.equal(mixed.labels, plain.labels)

        # All images of a batch have one weight.
        weight = float(mixed.share[0])
        weights.add(weight)
        assert plain.share is None and torch.equal(mixed.share, torch.full((len(plain),), weight))

        # The second label is that of an image with which the formula gives the mixture.
        for image, own, label in zip(mixed.images, plain.images, mixed.mixed_labels, strict=True):
            fits = [torch.allclose(image, weight * own + (1 - weight) * x, atol=1e-3) for x in plain.images]
            assert label in plain.labels[torch.tensor(fits)]
    assert len(weights) == 5


def test_mixtures_depend_on_seed_epoch_and_step():
    whole = list(make_batches(1.0).epoch(3))
    later = list(make_batches(1.0).epoch(3, first=2))
    for a, b in zip(whole[2:], later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    for other in (make_batches(1.0, seed=1).epoch(3), make_batches(1.0).epoch(4)):
        assert not torch.equal(next(other).share, whole[0].share)


def make_batch(count: int, share: float) -> Batch:
    """Return a batch for a linear model of 6 inputs and 4 classes, in float64."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    labels, mixed = torch.randint(0, 4, (2, count), generator=generator)
    return Batch(images, labels, None, mixed, torch.full((count,), share, dtype=torch.float64))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_mixed_targets(smoothing):
    batch = make_batch(7, 0.8)
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    own, other = (nn.functional.one_hot(labels, 4).double() for labels in (batch.labels, batch.mixed_labels))
    targets = 0.8 * own + 0.2 * other
    targets = (1 - smoothing) * targets + smoothing / 4
    losses = -(targets * logits.log_softmax(1)).sum(1)

    torch.testing.assert_close(batch_loss(logits, batch, smoothing, "none"), losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(batch_loss(logits, batch, smoothing), losses.mean(), rtol=1e-12, atol=0)


def gradient(weight: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Compute the gradient of the mixture's loss for logits `x Wᵀ`: softmax less the mixed targets, times x."""
    targets = torch.zeros(len(batch), 4, dtype=torch.float64)
    for i in range(len(batch)):
        targets[i, batch.labels[i]] += batch.share[i]
        targets[i, batch.mixed_labels[i]] += 1 - batch.share[i]
    excess = (batch.images @ weight.T).softmax(1) - targets
    return excess.T @ batch.images / len(batch)


@pytest.mark.parametrize(("m", "micro"), [(None, None), (None, 3), (4, None)])
@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_step_equals_plain_reference(name, m, micro):
    m = m if name == "sam" else None
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False).double()
    base = torch.optim.SGD(model.parameters(), lr=LR)
    radius = {"rho": RHO} if METHODS[name].perturbs else {}
    optimizer = method(name)(model.parameters(), base, model=model, **radius)
    step = Step(model, optimizer, Hardware(CPU, "fp32"), Processes("cpu"), 0.0, m, micro)

    w = model.weight.detach().clone()
    for share in (0.9, 0.6, 1.0):
        batch = make_batch(8, share)
        step(batch)

        # Both passes of SAM see the same mixture.
        direction = torch.zeros_like(w)
        for part in batch.split(m or 8):
            g = gradient(w, part)
            perturbed = w + RHO * g / g.norm() if name == "sam" else w
            direction += gradient(perturbed, part) * len(part) / 8
        w = w - LR * direction
        torch.testing.assert_close(model.weight.detach(), w, rtol=1e-9, atol=1e-12)


def test_chosen_examples_keep_their_mixtures():
    batch = make_batch(8, 0.7)
    chosen = batch.take(torch.tensor([5, 2]))
    assert torch.equal(chosen.mixed_labels, batch.mixed_labels[[5, 2]])

    logits = torch.randn(8, 4, dtype=torch.float64)
    losses = batch_loss(logits, batch, reduction="none")
    torch.testing.assert_close(batch_loss(logits[[5, 2]], chosen, reduction="none"), losses[[5, 2]])
