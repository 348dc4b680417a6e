"""Augmentation: each image against torchvision's own operations, and chance against torchvision's transforms."""

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
SWITCHES = [
    (crop, flip, normalise, cutout) for crop in (0, 1) for flip in (0, 1) for normalise in (0, 1) for cutout in (0, 1)
]


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def draws(count: int, seed: int = 0) -> Draws:
    return Draws.of(count, torch.Generator().manual_seed(seed))


def slowly(
    pixels: Tensor, chance: Draws, i: int, padding: str, crop, flip, normalise, cutout, margin=PADDING, box=CUTOUT
) -> Tensor:
    """One image, by torchvision's functions and a loop over the box."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = pixels.float() / 255
    if crop:
        mode = {"zeros": "constant", "reflect": "reflect"}[padding]
        padded = functional.pad(image, [margin] * 4, padding_mode=mode)
        image = functional.crop(padded, int(chance.crop_row[i]), int(chance.crop_column[i]), 32, 32)
    if flip and chance.flip[i]:
        image = functional.hflip(image)
    if normalise:
        image = functional.normalize(image, *NORMALISE)
    if cutout and chance.cutout[i]:
        for row in range(int(chance.cutout_row[i]), int(chance.cutout_row[i]) + box):
            for column in range(int(chance.cutout_column[i]), int(chance.cutout_column[i]) + box):
                if 0 <= row < 32 and 0 <= column < 32:
                    image[:, row, column] = 0
    return image


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_each_image_is_what_torchvisions_operations_make_of_it(switches, padding):
    crop, flip, normalise, cutout = map(bool, switches)
    augment = Augment(crop, flip, NORMALISE if normalise else None, cutout, CPU, padding)
    pixels, chance = images(40), draws(40)
    index = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    batch = augment.train(augment.prepare(pixels), index, chance)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for i, image in enumerate(batch):
        torch.testing.assert_close(image, slowly(pixels[index[i]], chance, i, padding, *switches), rtol=0, atol=2e-6)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("margin", [1, 2, 16])
def test_augment_with_other_sizes_equals_torchvision(margin, padding):
    box = Box(size=12, probability=1.0, inside=True)
    augment = Augment(True, True, NORMALISE, True, CPU, padding, margin, box)
    pixels, chance = images(20), augment.draw(20, torch.Generator().manual_seed(0))

    batch = augment.train(augment.prepare(pixels), torch.arange(20), chance)

    for i, image in enumerate(batch):
        expected = slowly(pixels[i], chance, i, padding, True, True, True, True, margin, 12)
        torch.testing.assert_close(image, expected, rtol=0, atol=2e-6)


def test_draws_with_two_pixels_are_five_shifts():
    drawn = Draws.of(1000, torch.Generator().manual_seed(0), padding=2)
    assert set(drawn.crop_row.tolist()) == set(drawn.crop_column.tolist()) == set(range(5))


def test_draws_of_box_inside_stay_within_image():
    drawn = Draws.of(1000, torch.Generator().manual_seed(0), box=Box(12, 1.0, inside=True))
    assert drawn.cutout.all()
    assert set(drawn.cutout_row.tolist()) == set(drawn.cutout_column.tolist()) == set(range(21))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_evaluation_only_normalises(padding):
    functional = pytest.importorskip("torchvision.transforms.functional")
    augment, pixels = Augment(True, True, NORMALISE, True, CPU, padding), images(10)
    expected = functional.normalize(pixels.float() / 255, *NORMALISE)
    torch.testing.assert_close(augment.evaluate(augment.prepare(pixels)), expected, rtol=0, atol=2e-6)


def test_crop_and_flip_are_distributed_as_torchvisions_transforms():
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    count = 20_000
    coordinates = torch.arange(1, 1025).view(1, 32, 32).float() / 1024
    theirs = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()])
    corners = torch.stack([torch.round(1024 * theirs(coordinates)[0, 16, 14:18]) for _ in range(count)])
    chance = draws(count)
    row, column = 16 + chance.crop_row - PADDING, torch.arange(14, 18)[None].expand(count, -1)
    column = torch.where(chance.flip[:, None], 31 - column, column) + chance.crop_column[:, None] - PADDING
    ours = row[:, None] * 32 + column + 1
    for a, b in ((corners[:, 0], ours[:, 0]), (corners[:, 3], ours[:, 3])):
        values = torch.unique(torch.cat([a, b.float()]))
        table = [[int((sample == value).sum()) for value in values] for sample in (a, b)]
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
def test_every_draw_is_uniform_over_its_values(name, values):
    drawn = getattr(draws(40_000), name).int()
    counts = [int((drawn == value).sum()) for value in values]
    assert sum(counts) == 40_000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_draws_are_independent_of_each_other():
    drawn = torch.stack([value.float() for value in vars(draws(40_000)).values()])
    correlations = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert correlations.abs().max() < 0.02


def batches(seed: int, count: int = 103, cutout: bool = True, keep_last: bool = True) -> Batches:
    labelled = Images(images(count), torch.arange(count))
    augment = Augment(True, True, NORMALISE, cutout, CPU)
    return Batches(labelled, augment, batch_size=10, seed=seed, keep_last=keep_last)


def test_an_epoch_shows_every_image_once_and_keeps_the_last_smaller_batch():
    seen = [batch.labels for batch in batches(0).epoch(0)]
    assert [len(labels) for labels in seen] == [10] * 10 + [3]
    assert sorted(torch.cat(seen).tolist()) == list(range(103))


def test_without_the_last_batch_each_epoch_leaves_out_other_images():
    chosen = batches(0, keep_last=False)
    left_out = []
    for epoch in range(5):
        kept = [batch.labels for batch in batches(0).epoch(epoch)]
        seen = [batch.labels for batch in chosen.epoch(epoch)]
        assert len(chosen) == len(seen) == 10 and chosen.images == 100
        assert all(torch.equal(a, b) for a, b in zip(seen, kept[:-1], strict=True))
        left_out.append(frozenset(range(103)) - set(torch.cat(seen).tolist()))
    assert len(set(left_out)) == 5


def test_an_epoch_depends_on_seed_and_number_alone():
    torch.manual_seed(1)
    first = list(batches(0).epoch(3))
    torch.manual_seed(2)
    again = list(batches(0).epoch(3))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    for other in (batches(1).epoch(3), batches(0).epoch(4)):
        assert not torch.equal(first[0].labels, next(other).labels)


def test_switching_one_augmentation_off_does_not_change_the_others():
    with_cutout, without = batches(0), batches(0, cutout=False)
    for a, b in zip(with_cutout.epoch(0), without.epoch(0), strict=True):
        kept = a.images != 0
        assert torch.equal(a.images[kept], b.images[kept])


def test_generators_of_different_purposes_differ():
    seeds = {
        generator_for(*key).initial_seed()
        for key in [(0, "epoch", 0), (0, "epoch", 1), (1, "epoch", 0), (0, "weights")]
    }
    assert len(seeds) == 4


def flipped(epoch: int, seed: int = 0) -> list[bool]:
    """Return which of 50 images an epoch shows mirrored, by their own numbers."""
    pixels, labels = images(50), torch.arange(50)
    augment = Augment(False, True, None, False, CPU, alternate_flips=True)
    originals = augment.evaluate(augment.prepare(pixels))
    found = [False] * 50
    for batch in Batches(Images(pixels, labels), augment, 10, seed).epoch(epoch):
        for image, label in zip(batch.images, batch.labels, strict=True):
            mirrored = originals[label].flip(-1)
            assert torch.equal(image, mirrored) or torch.equal(image, originals[label])
            found[label] = torch.equal(image, mirrored)
    return found


def test_alternate_flips_turn_all_images_every_epoch():
    first, second, third = (flipped(epoch) for epoch in range(3))
    assert 10 < sum(first) < 40
    assert second == [not each for each in first]
    assert third == first


def test_alternate_flips_with_other_seed_differ():
    assert flipped(0) != flipped(0, seed=1)
