"""Augmentation and normalisation against slow versions written from their definitions."""

import numpy as np
import pytest
import torch
from small_data import make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.core.randomness import generator
from fedray.data.augment import crop_flip, cutout, draw_cutout, normalise, scale_and_shift
from fedray.training.batches import draw_batches
from fedray.training.trainer import Trainer


def images(n):
    return torch.from_numpy(np.random.default_rng(n).integers(1, 256, (n, 3, 32, 32), dtype=np.uint8))


def crop_and_flip_one(image, draw):
    """image [3, 32, 32], draw 0..161: 18 draws a row of crops, 2 a column, the odd ones mirrored."""
    top, left, mirrored = draw // 18, draw % 18 // 2, draw % 2 == 1
    out = np.zeros((3, 32, 32), np.uint8)
    for y in range(32):
        for x in range(32):
            source_y, source_x = y + top - 4, x + left - 4
            if 0 <= source_y < 32 and 0 <= source_x < 32:
                out[:, y, 31 - x if mirrored else x] = image[:, source_y, source_x]
    return out


def test_crop_flip_equals_the_slow_version():
    batch = images(40)
    draws = generator(5, "augment", t=2, client=3).integers(0, 162, size=40)
    expected = np.stack([crop_and_flip_one(image, draw) for image, draw in zip(batch.numpy(), draws, strict=True)])
    before = batch.clone()
    assert np.array_equal(crop_flip(batch, generator(5, "augment", t=2, client=3)).numpy(), expected)
    assert torch.equal(batch, before)


def test_a_batch_cut_in_two_is_the_same_images():
    batch, rng = images(33), generator(1, "augment")
    halves = torch.cat([crop_flip(batch[:10], rng), crop_flip(batch[10:], rng)])
    assert torch.equal(halves, crop_flip(batch, generator(1, "augment")))


def test_every_place_and_both_directions_occur_about_equally_often():
    """One bright pixel in the middle tells where each crop was: 81 places, and mirrored ones by a second pixel."""
    batch = torch.zeros(20_000, 3, 32, 32, dtype=torch.uint8)
    batch[:, :, 15, 15], batch[:, :, 15, 17] = 255, 100
    out = crop_flip(batch, generator(0, "augment"))[:, 0].flatten(1)
    bright, dim = out.argmax(1), (out == 100).int().argmax(1)
    mirrored = (dim < bright).float().mean().item()
    assert mirrored == pytest.approx(0.5, abs=0.02)
    counts = torch.bincount(bright[dim > bright], minlength=1024)
    counts = counts[counts > 0]
    assert len(counts) == 81
    assert counts.min() > 70  # 123 expected, 11 standard deviation
    assert counts.max() < 180


def test_images_of_other_sizes_and_colours_are_cropped_and_mirrored_too():
    """Grey images of 28 x 28, as MNIST has, padded and cut by NumPy."""
    batch = np.random.default_rng(0).integers(1, 256, (60, 1, 28, 28), dtype=np.uint8)
    draws = generator(4, "augment").integers(0, 162, size=60)
    padded = np.pad(batch, ((0, 0), (0, 0), (4, 4), (4, 4)))
    expected = []
    for image, draw in zip(padded, draws.tolist(), strict=True):
        top, left = draw // 18, draw % 18 // 2
        cut = image[:, top : top + 28, left : left + 28]
        expected.append(cut[..., ::-1] if draw % 2 else cut)
    assert np.array_equal(crop_flip(torch.from_numpy(batch), generator(4, "augment")).numpy(), np.stack(expected))
    wide = torch.from_numpy(batch[:, :, :20])
    assert crop_flip(wide, generator(4, "augment")).shape == (60, 1, 20, 28)


def test_no_images_are_no_images():
    assert crop_flip(images(4)[:0], generator(0, "augment")).shape == (0, 3, 32, 32)


MEAN = (0.49, 0.48, 0.446)  # 124.95, 122.4 and 113.73 of 255
BLANK = (125, 122, 114)


def cut_out_one(image, draw, side):
    """image [3, 32, 32], draw 0..1023: the centre's row and column; an even side reaches further up and left."""
    out = image.copy()
    for y in range(32):
        for x in range(32):
            down, right = y - draw // 32, x - draw % 32
            if -(side // 2) <= down < side - side // 2 and -(side // 2) <= right < side - side // 2:
                out[:, y, x] = BLANK
    return out


@pytest.mark.parametrize("side", [1, 2, 7, 16, 31])
def test_cutout_equals_the_slow_version(side):
    batch = images(20)
    drawn = draw_cutout(generator(5, "cutout", t=2, client=3), batch.shape)
    drawn[:4] = 0, 31, 31 * 32, 1023  # the corners, where most of the square lies outside
    expected = np.stack([cut_out_one(image, draw, side) for image, draw in zip(batch.numpy(), drawn, strict=True)])
    before = batch.clone()
    found = cutout(batch, drawn, side, MEAN)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), expected)
    assert torch.equal(batch, before)
    assert cutout(batch[:0], drawn[:0], side, MEAN).shape == (0, 3, 32, 32)


def test_the_square_is_about_anywhere_equally_often_and_reaches_over_the_edge():
    """Side 1 shows the centre. Of side 16 a centre in the first or last 8 rows or columns leaves a part outside."""
    batch = torch.full((60_000, 1, 8, 8), 255, dtype=torch.uint8)
    found = cutout(batch, draw_cutout(generator(0, "cutout"), batch.shape), 1, (0.0,)).flatten(1)
    assert (found == 0).sum(1).unique().tolist() == [1]
    counts = (found == 0).sum(0)
    assert abs(counts.float() - 937.5).max() < 150  # 30 is the standard deviation
    batch = torch.full((4000, 1, 32, 32), 255, dtype=torch.uint8)
    found = cutout(batch, draw_cutout(generator(0, "cutout"), batch.shape), 16, (0.0,)).flatten(1)
    areas = (found == 0).sum(1)
    assert areas.max() == 256
    assert areas.min() < 80
    assert (areas == 256).float().mean() == pytest.approx((17 / 32) ** 2, abs=0.03)


def test_a_batch_cut_in_two_has_the_same_squares():
    batch, rng = images(33), generator(1, "cutout")
    halves = np.concatenate([draw_cutout(rng, batch[:10].shape), draw_cutout(rng, batch[10:].shape)])
    assert np.array_equal(halves, draw_cutout(generator(1, "cutout"), batch.shape))


def test_a_trainer_crops_then_cuts_out_each_image_by_its_own_draw(dataset):
    """Batches of two epochs, put together from the functions above at the address of seed, round, client and epoch."""
    algorithm, n = FedAvg(batch_size=8, epochs=2), 20
    data = dataset.train_images[:n], dataset.train_labels[:n]
    seen = {}
    for augment in ("none", "crop-flip", "cutout", "crop-flip-cutout"):
        trainer = Trainer(make_recipe(dataset, "logistic", augment, cutout=6))
        seen[augment] = torch.cat([x for x, _ in draw_batches(trainer.network, algorithm, 4, *data, 3)]).split(n)
    for epoch in (0, 1):
        address = {"t": 3, "client": 4, "epoch": epoch}
        pixels = torch.from_numpy(data[0][generator(3, "shuffle", **address).permutation(n)])
        cropped = crop_flip(pixels, generator(3, "augment", **address))
        drawn = draw_cutout(generator(3, "cutout", **address), pixels.shape)
        expected = {
            "none": pixels,
            "crop-flip": cropped,
            "cutout": cutout(pixels, drawn, 6, dataset.mean),
            "crop-flip-cutout": cutout(cropped, drawn, 6, dataset.mean),
        }
        for augment, images in expected.items():
            assert torch.equal(seen[augment][epoch], normalise(images, dataset.mean, dataset.std)), augment
            assert augment == "none" or not torch.equal(images, pixels)


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (2, 5, 3, 32, 32)])
def test_normalise_is_its_formula(shape):
    batch = images(10)[: np.prod(shape[:-3])].reshape(shape)
    mean, std = (0.49, 0.48, 0.44), (0.2, 0.25, 0.3)
    expected = (batch.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    found = normalise(batch, mean, std)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected, atol=2e-6)


def test_a_product_takes_bytes_as_they_are():
    """Which is how a GPU normalises, and spares it a pass."""
    batch, (scale, shift) = images(5), scale_and_shift((0.5, 0.4, 0.45), (0.25, 0.2, 0.3), torch.device("cpu"))
    found = torch.mul(batch, scale).add_(shift)
    assert torch.equal(found, normalise(batch, (0.5, 0.4, 0.45), (0.25, 0.2, 0.3)))
