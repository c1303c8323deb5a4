"""Augmentation and normalisation against slow versions written from their definitions."""

import numpy as np
import pytest
import torch

from fedray.data.augment import crop_flip, normalise
from fedray.randomness import generator


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


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (2, 5, 3, 32, 32)])
def test_normalise_is_its_formula(shape):
    batch = images(10)[: np.prod(shape[:-3])].reshape(shape)
    mean, std = (0.49, 0.48, 0.44), (0.2, 0.25, 0.3)
    expected = (batch.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    found = normalise(batch, mean, std)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected, atol=2e-6)
