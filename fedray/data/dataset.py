"""A data set in memory, two arrays a split."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.data.strata import Strata, strata

Split = Literal["test", "validation"]
BINS = 10
"""The default of data.target_bins."""
COUNTED = 1000  # images whose intensities are counted together
SUMMED = 2**20  # numbers that are summed together
MOST_CLASSES = 4096
"""The largest number of classes. Evaluation then holds labels as int16 and a confusion matrix of 134 MB."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set in memory. The validation split is held out of the training split and may be empty.

    Images are uint8 [n, c, h, w], C-contiguous, with intensities 0..255; three channels are red, green, blue. Labels
    are int64 [n] in 0..K-1. Inputs and targets of another `kind` have the same names.
    """

    name: str
    """The value of `data.dataset`: "cifar10", "synthetic", "parquet", "module:function"."""
    format: str
    """The format of the images as stored: "pickle", "idx", "png", "jpeg", "arrays" or "generated". JPEG is lossy."""
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, ...]
    """The mean of each channel, which normalisation subtracts, for intensities in 0..1. Of values, that of each index
    of an example's first axis. Empty for tokens."""
    std: tuple[float, ...]
    """The standard deviation of each channel, by which normalisation divides, likewise."""
    classes: tuple[str, ...]
    """The name of each label, or of each real target."""
    fingerprint: str
    """The hash of the data's content, in hex digits, from `fingerprint`."""
    validation_images: np.ndarray = None  # type: ignore[assignment]  # becomes empty, of the images' shape
    validation_labels: np.ndarray = None  # type: ignore[assignment]
    train_users: np.ndarray | None = None
    """The user of each training example, int64 [n] in 0..U-1, in the sorted order of the users' names; None without."""
    kind: Kind = CLASSIFIED_IMAGES
    """What its inputs and its targets are."""
    target_bins: int = BINS
    """The most strata of real targets."""
    note: str = ""
    """Facts to print beside a name that says little: shape, classes, source of the test images."""

    def __post_init__(self) -> None:
        for name, empty in {"images": self.test_images[:0], "labels": self.test_labels[:0]}.items():
            if getattr(self, f"validation_{name}") is None:
                object.__setattr__(self, f"validation_{name}", empty)

    @cached_property
    def strata(self) -> Strata:
        """The group of each training and test example, by which partitions deal out and tables count."""
        return strata(self.kind, self.train_labels, self.test_labels, self.classes, self.target_bins)

    @property
    def unit(self) -> str:
        """The word for inputs in sentences."""
        return "images" if self.kind.inputs == "images" else "examples"

    def examples(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of a split for evaluation."""
        if split == "test":
            return self.test_images, self.test_labels
        return self.validation_images, self.validation_labels


def measure(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [n, c, h, w], for intensities in 0..1.

    A constant channel gets the deviation 1, because images are divided by it. All sums are of integers, so the order
    and the machine change no bit.
    """
    counts = [[0] * 256 for _ in range(images.shape[1])]
    for start in range(0, len(images), COUNTED):
        for channel, known in enumerate(counts):
            found = np.bincount(images[start : start + COUNTED, channel].ravel(), minlength=256).tolist()
            known[:] = [a + b for a, b in zip(known, found, strict=True)]
    mean, std = [], []
    for known in counts:
        n = sum(known)
        total, squares = (sum(value**power * count for value, count in enumerate(known)) for power in (1, 2))
        mean.append(total / (255 * n))
        std.append(math.sqrt((n * squares - total**2) / (255 * n) ** 2) or 1.0)
    return tuple(mean), tuple(std)


def measure_values(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of float32 [n, c, ...] over all but its second axis, as float64.

    Sums run over the examples in their order, one number after another, so the machine changes no bit. The deviation is
    that from the mean, in a second pass. Where all numbers are equal, or float32 has no number as small as their
    deviation, it is 1.
    """
    n, channels = values.shape[:2]
    flat = values.reshape(n, channels, -1)
    rows = max(1, SUMMED // max(1, flat[0].size))
    each = n * flat.shape[2]

    def total(power: int, middle: np.ndarray) -> np.ndarray:
        found = np.zeros(channels)
        for start in range(0, n, rows):
            part = flat[start : start + rows].transpose(1, 0, 2).reshape(channels, -1).astype(np.float64)
            part = (part - middle[:, None]) ** power if power > 1 else part
            found = np.cumsum(np.column_stack([found, part]), axis=1)[:, -1]  # np.sum adds in an order of its own
        return found

    low, high = flat.min((0, 2)), flat.max((0, 2))
    mean = np.where(low == high, low, total(1, np.zeros(channels)) / each)
    std = np.sqrt(total(2, mean) / each)
    std = np.where((low == high) | (std < np.finfo(np.float32).tiny), 1.0, std)
    return tuple(mean.tolist()), tuple(std.tolist())
