"""A data set in memory: two arrays a split."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["test", "validation"]
COUNTED = 1000  # images whose intensities are counted together
MOST_CLASSES = 4096
"""An evaluation counts what is taken for what: 134 MB for so many classes, of which a label is int16 there."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set, in memory; the validation split, held out from the training split, may be empty.

    Images are uint8 [n, c, h, w], C-contiguous, intensities 0..255, three channels being red, green, blue; labels are
    int64 [n] in 0..K-1.
    """

    name: str
    """What `data.dataset` says: "cifar10", "synthetic", "parquet", "module:function"."""
    format: str
    """How the images were stored: "pickle", "idx", "png", "jpeg", "arrays" or "generated". JPEG is lossy."""
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, ...]
    """What normalisation subtracts from each channel, for intensities in 0..1."""
    std: tuple[float, ...]
    """What normalisation divides each channel by, for intensities in 0..1."""
    classes: tuple[str, ...]
    """The name of each label."""
    fingerprint: str
    """The hash of the files' content that `fingerprint` gives: hex."""
    validation_images: np.ndarray = None  # type: ignore[assignment]  # becomes empty, of the images' shape
    validation_labels: np.ndarray = None  # type: ignore[assignment]
    train_users: np.ndarray | None = None
    """Whose each training example is: int64 [n] in 0..U-1, in the sorted order of the users' names; None: not asked."""
    note: str = ""
    """What else there is to say of it where its name says little: shape, classes, where the test images are from."""

    def __post_init__(self) -> None:
        for name, empty in {"images": self.test_images[:0], "labels": self.test_labels[:0]}.items():
            if getattr(self, f"validation_{name}") is None:
                object.__setattr__(self, f"validation_{name}", empty)

    def examples(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of a split on which models are evaluated."""
        if split == "test":
            return self.test_images, self.test_labels
        return self.validation_images, self.validation_labels


def measure(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [n, c, h, w], for intensities in 0..1.

    A channel without deviation gets 1, since images are divided by it. Sums are of integers, so that neither order nor
    machine changes a bit.
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
