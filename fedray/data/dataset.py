"""A data set in memory, two arrays a split."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedray.data.kinds import CLASSIFIED_IMAGES, Kind

Split = Literal["test", "validation"]
COUNTED = 1000  # images whose intensities are counted together
MOST_CLASSES = 4096
"""The largest number of classes. Evaluation then holds labels as int16 and a confusion matrix of 134 MB."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set in memory. The validation split is held out of the training split and may be empty.

    Images are uint8 [n, c, h, w], C-contiguous, with intensities 0..255; three channels are red, green, blue. Labels
    are int64 [n] in 0..K-1.
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
    """The mean of each channel, which normalisation subtracts, for intensities in 0..1."""
    std: tuple[float, ...]
    """The standard deviation of each channel, by which normalisation divides, for intensities in 0..1."""
    classes: tuple[str, ...]
    """The name of each label."""
    fingerprint: str
    """The hash of the data's content, in hex digits, from `fingerprint`."""
    validation_images: np.ndarray = None  # type: ignore[assignment]  # becomes empty, of the images' shape
    validation_labels: np.ndarray = None  # type: ignore[assignment]
    train_users: np.ndarray | None = None
    """The user of each training example, int64 [n] in 0..U-1, in the sorted order of the users' names; None without."""
    kind: Kind = CLASSIFIED_IMAGES
    """What its inputs and its targets are."""
    note: str = ""
    """Facts to print beside a name that says little: shape, classes, source of the test images."""

    def __post_init__(self) -> None:
        for name, empty in {"images": self.test_images[:0], "labels": self.test_labels[:0]}.items():
            if getattr(self, f"validation_{name}") is None:
                object.__setattr__(self, f"validation_{name}", empty)

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
