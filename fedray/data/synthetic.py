"""The synthetic data set: ten shapes on coloured ground, 32 x 32 pixels like CIFAR-10, for machines without it.

A class is a shape and nothing else. All the rest is drawn independently of the class: the shape's place, size, contrast
and tint, the ground's colour and slope of brightness, and the noise of every pixel. So no pixel tells the class, and a
linear model stays far behind a convolution. The faintest shapes drown in the noise, so no model reaches 100 %.

All arithmetic is on integers from raw Philox bits, which NumPy never changes. So every machine gets the same bytes.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.randomness import generator
from fedray.data.dataset import Dataset

VERSION = 1  # raise it when a byte of the data changes
FINGERPRINT = hashlib.blake2b(f"synthetic {VERSION}".encode(), digest_size=16).hexdigest()
CLASSES = ("disc", "ring", "square", "frame", "triangle", "plus", "cross", "rows", "columns", "checkers")
SIZES = {"train": 50_000, "test": 10_000}
# Round numbers near CIFAR-10's, so that learning rates carry over. The images' own are 0.46 and 0.14.
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

CHUNK = 500  # images drawn from one address; small enough for a processor's cache
SIDE = 32
RADII = range(9, 13)  # half the width of a shape in pixels
OVER = 2  # pixels of a shape that may lie outside the image
FINE = 4  # a pixel of a stencil is FINE x FINE samples, which smooths its edges
WORDS = 2  # raw 64-bit draws that decide an image before its noise
SOLID = FINE * FINE


def read(counts: Mapping[str, int]) -> Dataset:
    """The first `counts` examples of each split (0: all)."""
    for split, count in counts.items():
        if count > SIZES[split]:
            raise BadInputError(f"data.{split}_examples is {count}, but there are only {SIZES[split]} {split} examples")
    train, test = (generate(split, counts[split] or SIZES[split]) for split in ("train", "test"))
    return Dataset(
        name="synthetic",
        format="generated",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        mean=MEAN,
        std=STD,
        classes=CLASSES,
        fingerprint=FINGERPRINT,
    )


def generate(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` examples of a split: uint8 images [count, 3, 32, 32] and int64 labels [count].

    An example depends neither on `count` nor on the seed of an experiment. Every 500 examples hold each class 50 times.
    """
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    labels = np.empty(count, np.int64)
    stencils = _stencils()

    def fill(start: int) -> None:
        rows = slice(start, start + CHUNK)
        drawn, classes = _chunk(split, start // CHUNK, stencils)
        images[rows], labels[rows] = drawn[: count - start], classes[: count - start]

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, count, CHUNK)))
    return images, labels


def _chunk(split: str, index: int, stencils: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = generator(VERSION, "synthetic", t=list(SIZES).index(split), client=index).bit_generator
    order = np.argsort(bits.random_raw(CHUNK), kind="stable")
    labels = order % len(CLASSES)
    # Words are split into bytes in a fixed byte order, so that the machine's own does not matter.
    words = bits.random_raw(CHUNK * WORDS).astype("<u8").view(np.uint8).reshape(CHUNK, WORDS * 8).astype(np.int32)
    noise = bits.random_raw(CHUNK * 3 * SIDE * SIDE // 8).astype("<u8").view(np.uint8).reshape(CHUNK, 3, SIDE, SIDE)

    size = words[:, 0] % len(RADII)
    radius = size + RADII[0]
    places = SIDE - 2 * radius + 2 * OVER + 1
    left, top = ((words[:, i] * places >> 8) - OVER for i in (1, 2))
    windows = np.lib.stride_tricks.sliding_window_view(stencils, (SIDE, SIDE), axis=(2, 3))
    shape = windows[labels, size, SIDE - top, SIDE - left].astype(np.int16)  # [CHUNK, 32, 32], 0..SOLID

    ground = 72 + (words[:, 3:6] * 80 >> 8)  # [CHUNK, 3]
    lift = 14 + (words[:, 9] * 48 >> 8)  # how much lighter the shape is than its ground
    step = lift[:, None] + (words[:, 6:9] - 128) // 8  # [CHUNK, 3]: more in one channel, less in another
    slope = (words[:, 10:12] % 7 - 3).astype(np.int16)  # brightness per pixel, in halves
    along = np.arange(SIDE, dtype=np.int16) - SIDE // 2
    tilt = (slope[:, :1, None] * along[:, None] + slope[:, 1:, None] * along) // 2  # [CHUNK, 32, 32]

    images = shape[:, None] * step[:, :, None, None].astype(np.int16)
    images //= SOLID
    images += ground[:, :, None, None].astype(np.int16)
    images += tilt[:, None]
    images += (noise.astype(np.int16) >> 2) - 32
    return np.clip(images, 0, 255).astype(np.uint8), labels


def _stencils() -> np.ndarray:
    """Coverage 0..SOLID of each class at each radius, uint8 [10, radii, 66, 66], the shape's corner in the middle."""
    stencils = np.zeros((len(CLASSES), len(RADII), 2 * SIDE + OVER, 2 * SIDE + OVER), np.uint8)
    for size, r in enumerate(RADII):
        whole = 2 * r * FINE  # samples across
        odd = 2 * np.arange(whole) - whole + 1  # coordinates from the centre, in half samples
        x, y = odd[None, :], odd[:, None]
        unit = whole // 4  # a quarter of the half width, in half samples
        square = np.ones((whole, whole), bool)
        near, far = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
        circle = x * x + y * y
        bars = (np.arange(whole) * 5 // whole) % 2 == 0
        drawn = (
            circle < whole * whole,
            (circle < whole * whole) & (circle > (5 * whole // 8) ** 2),
            square & (far < 7 * whole // 8),
            square & (far < 7 * whole // 8) & (far > 4 * whole // 8),
            2 * abs(x) < (y + whole),
            square & (near < unit),
            square & (abs(abs(x) - abs(y)) < unit * 3 // 2),
            square & bars[:, None],
            square & bars[None, :],
            square & (bars[:, None] == bars[None, :]),
        )
        for label, samples in enumerate(drawn):
            coverage = np.broadcast_to(samples, (whole, whole)).reshape(2 * r, FINE, 2 * r, FINE).sum(axis=(1, 3))
            stencils[label, size, SIDE : SIDE + 2 * r, SIDE : SIDE + 2 * r] = coverage
    return stencils
