"""Tests of augmentation and batches, against torchvision's operations and random transforms."""

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from sam_bench.data.augment import Augment, Box, Draws
from sam_bench.data.batches import Batches, generator_for
from sam_bench.data.images import Images
from sam_bench.data.registry import CUTOUT, DATASETS, PADDING

CPU = torch.device("cpu")
NORMALISE = DATASETS["cifar10"].mean, DATASETS["cifar10"].std

#: All choices of crop, flip, normalise and cutout.
SWITCHES = list(itertools.product((False, True), repeat=4))


def images(count: int) -> Tensor:
    """Return the pixels of images of noise."""
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def make_draws(count: int) -> Draws:
    return Draws.of(count, torch.Generator().manual_seed(0))


def augment_by_torchvision(
    pixels: Tensor, draws: Draws, i: int, padding: str, crop, flip, normalise, cutout, margin=PADDING, box=CUTOUT
) -> Tensor:
    """Augment one image with torchvision's functions and a loop over the box."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = pixels.float() / 255

    if crop:
        mode = {"zeros": "constant", "reflect": "reflect"}[padding]
        padded = functional.pad(image, [margin] * 4, padding_mode=mode)
        image = functional.crop(padded, int(draws.crop_row[i]), int(draws.crop_column[i]), 32, 32)
    if flip and draws.flip[i]:
        image = functional.hflip(image)
    if normalise:
        image = functional.normalize(image, *NORMALISE)

    if cutout and draws.cutout[i]:
        for row in range(int(draws.cutout_row[i]), int(draws.cutout_row[i]) + box):
            for column in range(int(draws.cutout_column[i]), int(draws.cutout_column[i]) + box):
                if 0 <= row < 32 and 0 <= column < 32:
                    image[:, row, column] = 0
    return image


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_augment_equals_torchvision(switches, padding):
    crop, flip, normalise, cutout = switches
    augment = Augment(crop, flip, NORMALISE if normalise else None, cutout, CPU, padding)
    pixels, draws = images(40), make_draws(40)
    index = torch.randperm(40, generator=torch.Generator().manual_seed(1))

    batch = augment.train(augment.prepare(pixels), index, draws)

    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for i, image in enumerate(batch):
        expected = augment_by_torchvision(pixels[index[i]], draws, i, padding, *switches)
        torch.testing.assert_close(image, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("margin", [1, 2, 16])
def test_augment_with_other_sizes_equals_torchvision(margin, padding):
    box = Box(size=12, probability=1.0, inside=True)
    augment = Augment(True, True, NORMALISE, True, CPU, padding, margin, box)
    pixels, draws = images(20), augment.draw(20, torch.Generator().manual_seed(0))

    batch = augment.train(augment.prepare(pixels), torch.arange(20), draws)

    for i, image in enumerate(batch):
        expected = augment_by_torchvision(pixels[i], draws, i, padding, True, True, True, True, margin, 12)
        torch.testing.assert_close(image, expected, rtol=0, atol=2e-6)


def test_draws_with_padding_2_give_five_shifts():
    draws = Draws.of(1000, torch.Generator().manual_seed(0), padding=2)
    assert set(draws.crop_row.tolist()) == set(draws.crop_column.tolist()) == set(range(5))


def test_draws_of_inside_box_stay_within_image():
    draws = Draws.of(1000, torch.Generator().manual_seed(0), box=Box(12, 1.0, inside=True))
    assert draws.cutout.all()
    assert set(draws.cutout_row.tolist()) == set(draws.cutout_column.tolist()) == set(range(21))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_evaluate_only_normalises(padding):
    functional = pytest.importorskip("torchvision.transforms.functional")
    augment, pixels = Augment(True, True, NORMALISE, True, CPU, padding), images(10)
    expected = functional.normalize(pixels.float() / 255, *NORMALISE)
    torch.testing.assert_close(augment.evaluate(augment.prepare(pixels)), expected, rtol=0, atol=2e-6)


def test_crop_and_flip_have_torchvisions_distribution():
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    count = 20_000

    # An image whose pixels are numbered, so that four pixels near its centre show the shift and the flip.
    numbered = torch.arange(1, 1025).view(1, 32, 32).float() / 1024
    transform = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()])
    by_torchvision = torch.stack([torch.round(1024 * transform(numbered)[0, 16, 14:18]) for _ in range(count)])

    # The numbers of the same four pixels, by our draws.
    draws = make_draws(count)
    row, column = 16 + draws.crop_row - PADDING, torch.arange(14, 18)[None].expand(count, -1)
    column = torch.where(draws.flip[:, None], 31 - column, column) + draws.crop_column[:, None] - PADDING
    ours = row[:, None] * 32 + column + 1

    for pixel in (0, 3):
        samples = by_torchvision[:, pixel], ours[:, pixel].float()
        values = torch.unique(torch.cat(samples))
        table = [[int((sample == value).sum()) for value in values] for sample in samples]
        assert len(values) >= 9 * 9
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("crop_row", range(9)),
        ("crop_column", range(9)),
        ("flip", range(2)),
        ("cutout", range(2)),
        ("cutout_row", range(-8, 24)),
        ("cutout_column", range(-8, 24)),
    ],
)
def test_each_draw_is_uniform(name, values):
    drawn = getattr(make_draws(40_000), name).int()
    counts = [int((drawn == value).sum()) for value in values]
    assert sum(counts) == 40_000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_draws_are_independent():
    drawn = torch.stack([value.float() for value in vars(make_draws(40_000)).values()])
    correlations = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert correlations.abs().max() < 0.02


def make_batches(seed: int, cutout: bool = True, keep_last: bool = True) -> Batches:
    """Return batches of 103 images, whose labels are their numbers."""
    numbered = Images(images(103), torch.arange(103))
    augment = Augment(True, True, NORMALISE, cutout, CPU)
    return Batches(numbered, augment, batch_size=10, seed=seed, keep_last=keep_last)


def test_epoch_shows_every_image_once():
    labels = [batch.labels for batch in make_batches(0).epoch(0)]
    assert [len(each) for each in labels] == [10] * 10 + [3]
    assert sorted(torch.cat(labels).tolist()) == list(range(103))


def test_epochs_without_last_batch_omit_other_images():
    batches = make_batches(0, keep_last=False)
    omitted = []
    for epoch in range(5):
        all_labels = [batch.labels for batch in make_batches(0).epoch(epoch)]
        labels = [batch.labels for batch in batches.epoch(epoch)]
        assert len(batches) == len(labels) == 10
        assert batches.images == 100
        assert all(torch.equal(a, b) for a, b in zip(labels, all_labels[:-1], strict=True))
        omitted.append(frozenset(range(103)) - set(torch.cat(labels).tolist()))
    assert len(set(omitted)) == 5


def test_epoch_depends_only_on_seed_and_number():
    torch.manual_seed(1)
    first = list(make_batches(0).epoch(3))
    torch.manual_seed(2)
    second = list(make_batches(0).epoch(3))

    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    for other in (make_batches(1).epoch(3), make_batches(0).epoch(4)):
        assert not torch.equal(first[0].labels, next(other).labels)


def test_cutout_leaves_other_augmentations_unchanged():
    with_cutout, without = make_batches(0), make_batches(0, cutout=False)
    for a, b in zip(with_cutout.epoch(0), without.epoch(0), strict=True):
        outside_box = a.images != 0
        assert torch.equal(a.images[outside_box], b.images[outside_box])


def test_generators_differ_by_purpose():
    seeds = {
        generator_for(*key).initial_seed()
        for key in [(0, "epoch", 0), (0, "epoch", 1), (1, "epoch", 0), (0, "weights")]
    }
    assert len(seeds) == 4


def flips(epoch: int, seed: int = 0) -> list[bool]:
    """Return for each of 50 images if an epoch shows it mirrored."""
    pixels, labels = images(50), torch.arange(50)
    augment = Augment(False, True, None, False, CPU, alternate_flips=True)
    originals = augment.evaluate(augment.prepare(pixels))

    is_mirrored = [False] * 50
    for batch in Batches(Images(pixels, labels), augment, 10, seed).epoch(epoch):
        for image, label in zip(batch.images, batch.labels, strict=True):
            mirrored = originals[label].flip(-1)
            assert torch.equal(image, mirrored) or torch.equal(image, originals[label])
            is_mirrored[label] = torch.equal(image, mirrored)
    return is_mirrored


def test_alternate_flips_flip_all_images_each_epoch():
    first, second, third = (flips(epoch) for epoch in range(3))
    assert 10 < sum(first) < 40
    assert second == [not each for each in first]
    assert third == first


def test_alternate_flips_with_other_seed_differ():
    assert flips(0) != flips(0, seed=1)
