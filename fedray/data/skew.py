"""Feature skew: the images of clients differ in rotation, colour and noise, under any partition.

A client rotates its images by its own angle, then scales their colours by its own factors, then adds noise of its own
strength. The result is a pure function of the seed, the client and the images.
"""

import math

import numpy as np

from fedray.core.randomness import generator
from fedray.core.settings import section, setting

SHARD, TEST = 1, 2  # the epochs in the addresses of the noise; epoch 0 has the client's angle and factors


@section
class Skew:
    """Differences between the features of clients' images. With all settings at 0 images stay as they are.

    Noise grows with the client's number as in NIID-Bench (Li et al. 2022, arXiv:2102.02079, "noise-based feature
    imbalance"). Rotation follows rotated MNIST and CIFAR (Ghosh et al. 2020, arXiv:2006.04088), with an angle for each
    client.
    """

    noise: float = setting(
        0.0,
        "Standard deviation of the Gaussian noise in the last client's images, for intensities in 0..1; client k of "
        "0..N-1 has (k + 1) / N of it.",
        ge=0,
        le=1,
    )
    rotation: float = setting(
        0.0,
        "Largest angle: each client's images are turned by an angle drawn evenly from minus this to this; pixels from "
        "outside the image are black.",
        unit="degrees",
        ge=0,
        le=180,
    )
    colour: float = setting(
        0.0,
        "Largest change of colour: each client's red, green and blue are each scaled by a factor drawn evenly from 1 "
        "minus this to 1 plus this.",
        ge=0,
        le=1,
    )

    @property
    def is_off(self) -> bool:
        return not (self.noise or self.rotation or self.colour)

    def apply(self, images: np.ndarray, seed: int, client: int, clients: int, drawn: int = SHARD) -> np.ndarray:
        """The images as the client sees them, uint8 [n, c, h, w]; with all settings at 0, `images` itself.

        `clients` is N. `drawn` selects the noise: SHARD for the client's shard, TEST for its own test images.
        """
        if self.is_off or not len(images):
            return images
        rng = generator(seed, "skew", client=client)
        degrees = self.rotation * rng.uniform(-1, 1)
        factors = rng.uniform(1 - self.colour, 1 + self.colour, (images.shape[1], 1, 1))
        if self.rotation:
            images = rotate(images, degrees)
        if self.colour:
            images = to_bytes(images * factors.astype(np.float32))
        if self.noise:
            noise = generator(seed, "skew", client=client, epoch=drawn).standard_normal(images.shape, np.float32)
            noise *= np.float32(255 * self.noise * (client + 1) / clients)
            noise += images
            images = to_bytes(noise)
        return images


def to_bytes(intensities: np.ndarray) -> np.ndarray:
    """float32 intensities as uint8, rounded and clipped to 0..255. `intensities` is overwritten."""
    np.rint(intensities, out=intensities)
    return np.clip(intensities, 0, 255, out=intensities).astype(np.uint8)


def rotate(images: np.ndarray, degrees: float) -> np.ndarray:
    """uint8 images [n, c, h, w] turned counterclockwise about their centre, interpolated between four pixels.

    Places are rounded to 1/16 of a pixel, so the four weights are whole numbers that add up to 256. Right angles are
    exact, uniform grey stays the same, and every machine gets the same bytes.
    """
    n, channels, height, width = images.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    from_x = np.rint(16 * (cos * (x - middle_x) - sin * (y - middle_y) + middle_x)).astype(np.int64)
    from_y = np.rint(16 * (sin * (x - middle_x) + cos * (y - middle_y) + middle_y)).astype(np.int64)
    (left, beyond_left), (top, below_top) = np.divmod(from_x, 16), np.divmod(from_y, 16)
    flat = images.reshape(n * channels, height * width)
    turned = np.full(flat.shape, 128, np.uint16)  # a half, so that >> 8 rounds; 256 * 255 + 128 still fits
    for row, weight_y in ((top, 16 - below_top), (top + 1, below_top)):
        for column, weight_x in ((left, 16 - beyond_left), (left + 1, beyond_left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = np.where(inside, row * width + column, 0)
            turned += flat.take(place, axis=1) * (weight_y * weight_x * inside).astype(np.uint16)
    return (turned >> 8).astype(np.uint8).reshape(images.shape)
