"""Augmentation and normalisation of whole batches: random crop, flip, cutout, and inputs to normalised floats."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F

from fedray.core.kinds import Kind
from fedray.models.flat import Array, tensor_of

PAD = 4
SHIFTS = 2 * PAD + 1


def crop_flip(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pad each image with 4 zeros on every side, crop it back at a random place, and mirror it with probability 1/2.

    This is the usual CIFAR-10 augmentation (He et al. 2016, "Deep residual learning", section 4.2). `images` is uint8
    [n, c, h, w] on any device and is not changed. One number is drawn per image, in order. So a batch in two parts,
    augmented with the same generator, gives the same images.
    """
    return crop_flip_as_drawn(images, draw_crop_flip(rng, len(images)))


def draw_crop_flip(rng: np.random.Generator, n: int) -> np.ndarray:
    """The number that decides the crop and the flip of each of n images."""
    return rng.integers(0, SHIFTS * SHIFTS * 2, size=n)


def crop_flip_as_drawn(images: torch.Tensor, drawn: Array) -> torch.Tensor:
    """crop_flip of images whose numbers [n] were drawn before.

    No shape depends on the numbers drawn, and nothing is read back from the device. So the host never waits for a GPU.
    """
    _, channels, height, width = images.shape
    drawn = tensor_of(drawn).to(images.device)[:, None]
    across = torch.arange(width, device=images.device)
    rows = drawn // (2 * SHIFTS) + torch.arange(height, device=images.device)
    columns = drawn // 2 % SHIFTS + torch.where(drawn % 2 == 1, width - 1 - across, across)
    places = (rows * (width + 2 * PAD))[:, :, None] + columns[:, None]  # of each pixel in its padded image [n, h, w]
    padded = F.pad(images, (PAD, PAD, PAD, PAD)).flatten(2)
    return padded.gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).view(images.shape)


def draw_cutout(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """The number that decides where each of n images is blanked, given their `shape` (n, c, h, w)."""
    n, _, height, width = shape
    return rng.integers(0, height * width, size=n)


def cutout(images: torch.Tensor, drawn: Array, side: int, mean: tuple[float, ...]) -> torch.Tensor:
    """Each image with a square of `side` pixels blanked. Its centre is any pixel, so it may reach over the edge.

    DeVries, Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552,
    section 3.2. The paper blanks to 0 after normalisation. Here the blank value is each channel's `mean`, rounded to a
    whole intensity. `images` is uint8 [n, c, h, w] on any device and is not changed. `drawn` [n] is from draw_cutout.
    """
    _, _, height, width = images.shape
    centre = tensor_of(drawn).to(images.device)
    rows, columns = covered(centre // width, side, height), covered(centre % width, side, width)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], blank(mean, images.device), images)


@cache
def blank(mean: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Each channel's mean as a whole intensity, uint8 [c, 1, 1]. Cached: a copy to a GPU makes the host wait."""
    return torch.tensor([round(255 * channel) for channel in mean], dtype=torch.uint8, device=device)[:, None, None]


def covered(centre: torch.Tensor, side: int, length: int) -> torch.Tensor:
    """Whether each of `length` pixels in a line is within `side` pixels around each of n centres: bool [n, length]."""
    first = centre - side // 2
    pixels = torch.arange(length, device=centre.device)
    return (pixels >= first[:, None]) & (pixels < first[:, None] + side)


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """`(images / 255 - mean) / std` per channel: uint8 [..., c, h, w] to float32 of the same shape on the same device.

    `mean` and `std` hold c numbers for intensities in 0..1. One conversion and two passes in place were the fastest way
    of those measured: 1.6 microseconds an image in batches of 32.
    """
    scale, shift = scale_and_shift(mean, std, images.device)
    if images.is_cuda:  # where a product takes bytes as they are, with the same bits
        return torch.mul(images, scale).add_(shift)
    return images.to(torch.float32).mul_(scale).add_(shift)


def normaliser(
    kind: Kind, axes: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The normalisation of whole batches of inputs of a kind, each input with so many `axes`.

    Token ids stay as they are, int64.
    """
    if kind.inputs == "tokens":
        return torch.Tensor.detach
    if kind.inputs == "values":
        return partial(standardise, axes=axes, mean=mean, std=std)
    return partial(normalise, mean=mean, std=std)


def standardise(values: torch.Tensor, axes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """`(values - mean) / std` per index of the first of the last `axes` axes, float32, in this order of operations.

    The difference comes first, because it is exact where values lie near a mean far from 0.
    """
    centre, width = centre_and_width(axes, mean, std, values.device)
    return torch.sub(values, centre).div_(width)


@cache
def centre_and_width(
    axes: int, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`mean` and `std` as float32 [c, 1, ...] of so many axes. Cached: a copy to a GPU makes the host wait."""
    found = torch.tensor([mean, std], dtype=torch.float64).view(2, -1, *[1] * (axes - 1))
    return found[0].to(device, torch.float32), found[1].to(device, torch.float32)


@cache
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`1 / (255 std)` and `-mean / std` as float32 [c, 1, 1]. Cached, because they take as long as a small batch."""
    channels = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    scale = 1 / (255 * channels[1])
    shift = -channels[0] / channels[1]
    return scale.to(device, torch.float32), shift.to(device, torch.float32)
