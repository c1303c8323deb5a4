"""Data sets as two arrays each, and the section of the settings that chooses one.

`Data` is the setting, `resolve` fixes what "auto" means here, `fingerprint` tells which bytes would be read and `load`
reads them. PNG and JPEG images are decoded once and then come from a cache (cache.py), by the content of their files.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fedray.data import cifar10, synthetic
from fedray.errors import BadInputError
from fedray.randomness import generator
from fedray.settings import section, setting

OFFLINE = "--data.dataset synthetic"
CUTOUT = 16  # what DeVries and Taylor 2017 found best on CIFAR-10, section 4.2
Split = Literal["test", "validation"]
REMEDY = f"run `make data` to download it, or stay offline with {OFFLINE}"


@section
class Data:
    """Which images are trained on, where they lie, and how they are varied."""

    dataset: Literal["auto", "cifar10", "synthetic"] = setting(
        "auto", "Data set: auto takes CIFAR-10 where it is on disk and the generated one elsewhere."
    )
    root: str = setting("", "Folder with the data; empty takes the environment variable FEDRAY_DATA, or else data/.")
    augment: Literal["none", "crop-flip", "cutout", "crop-flip-cutout"] = setting(
        "none",
        "How training images are varied: crop-flip pads by 4 pixels, crops at random and mirrors half of them; cutout "
        "blanks a square at a random place to the data set's mean colour; crop-flip-cutout does one after the other.",
    )
    cutout: int = setting(
        CUTOUT, "Side of the square that cutout blanks; it may lie partly outside the image.", unit="pixels", ge=1
    )
    train_examples: int = setting(0, "Train on the first so many examples only; 0 takes all.", unit="examples", ge=0)
    test_examples: int = setting(0, "Evaluate on the first so many examples only; 0 takes all.", unit="examples", ge=0)
    validation_examples: int = setting(
        0,
        "Hold so many of the training examples out, the same for every seed, to choose settings by; 0 holds out none.",
        unit="examples",
        ge=0,
    )

    def __post_init__(self) -> None:
        if self.cutout != CUTOUT and "cutout" not in self.augment:
            raise BadInputError(
                f"data.cutout = {self.cutout} is for data.augment = cutout and crop-flip-cutout, not {self.augment}"
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set, in memory; the validation split, held out from the training split, may be empty.

    Images are uint8 [n, 3, 32, 32], C-contiguous, intensities 0..255 in red, green, blue; labels are int64 [n] in 0..9.
    """

    name: str
    """ "cifar10" or "synthetic"."""
    format: str
    """How the images were stored: "pickle", "png", "jpeg" or "generated". JPEG is lossy: name it with a result."""
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, float, float]
    """What normalisation subtracts from each channel, for intensities in 0..1."""
    std: tuple[float, float, float]
    """What normalisation divides each channel by, for intensities in 0..1."""
    classes: tuple[str, ...]
    """The name of each label."""
    fingerprint: str
    """The hash of the files' content that `fingerprint` gives: hex."""
    validation_images: np.ndarray = field(default_factory=lambda: np.empty((0, 3, 32, 32), np.uint8))
    validation_labels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    train_users: np.ndarray | None = None
    """Whose each training example is, int64 [n] in 0..users-1; None where the data set does not tell."""

    def examples(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of a split on which models are evaluated."""
        if split == "test":
            return self.test_images, self.test_labels
        return self.validation_images, self.validation_labels


def resolve(data: Data) -> Data:
    """The same settings with "auto" decided: "cifar10" where it is on disk, else "synthetic".

    BadInputError where a folder was named, by `data.root` or FEDRAY_DATA, that does not exist: a slip of the pen must
    not choose the data set.
    """
    if data.dataset != "auto":
        return data
    found = cifar10.locate(_root(data))
    return dataclasses.replace(data, dataset="cifar10" if found else "synthetic")


def fingerprint(data: Data) -> str:
    """A hash of the bytes that `load` would read, 32 hex digits, the same wherever they lie; no image is decoded.

    How many examples are used is not part of it. `data` must be resolved. BadInputError where a file is missing.
    """
    if data.dataset == "synthetic":
        return synthetic.FINGERPRINT
    return cifar10.fingerprint(_locate(data))


def load(data: Data, identity: str = "") -> Dataset:
    """Read or generate a data set; `data` must be resolved, `identity` is what `fingerprint` just gave, if it did.

    Whole splits of PNG or JPEG images are kept in a cache for the next time; its arrays are mapped from disk.
    BadInputError names the file, and the row, where one is damaged, and both numbers where too few examples exist or
    cutout would leave nothing of an image.
    """
    identity = identity or fingerprint(data)
    train: Sequence[np.ndarray]  # images and labels
    test: Sequence[np.ndarray]
    wanted = {"train": data.train_examples, "test": data.test_examples}
    if data.dataset == "synthetic":
        for split, count in wanted.items():
            _check_count(split, count, synthetic.SIZES[split])
        train, test = (synthetic.generate(split, n or synthetic.SIZES[split]) for split, n in wanted.items())
        stored, mean, std, classes = "generated", synthetic.MEAN, synthetic.STD, synthetic.CLASSES
    else:
        folder = _locate(data)
        *train, stored = cifar10.read(folder, "train", data.train_examples, identity)
        *test, _ = cifar10.read(folder, "test", data.test_examples, identity)
        for (split, count), arrays in zip(wanted.items(), (train, test), strict=True):
            _check_count(split, count, len(arrays[1]))
        mean, std, classes = cifar10.MEAN, cifar10.STD, cifar10.CLASSES
    _check_cutout(data, train[0].shape)
    train, validation = hold_out(train, data.validation_examples)
    return Dataset(
        name=data.dataset,
        format=stored,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        mean=mean,
        std=std,
        classes=classes,
        fingerprint=identity,
        validation_images=validation[0],
        validation_labels=validation[1],
    )


def hold_out(train: Sequence[np.ndarray], count: int) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Images and labels as two such pairs: those trained on, and `count` drawn from anywhere; both in their old order.

    BadInputError where nothing would be left to train on.
    """
    n = len(train[1])
    if count >= n:
        raise BadInputError(f"data.validation_examples is {count}, which leaves none of the {n} training examples")
    held = np.zeros(n, dtype=bool)
    held[generator(0, "validation").permutation(n)[:count]] = True
    return (train if count == 0 else [part[~held] for part in train]), [part[held] for part in train]


def _check_count(split: str, wanted: int, present: int) -> None:
    if wanted > present:
        raise BadInputError(f"data.{split}_examples is {wanted}, but there are only {present} {split} examples")


def _check_cutout(data: Data, shape: Sequence[int]) -> None:
    *_, height, width = shape
    if "cutout" in data.augment and data.cutout >= min(height, width):
        raise BadInputError(
            f"data.cutout = {data.cutout} can blank whole images, which have {width} x {height} pixels; it must be less"
        )


def _root(data: Data) -> Path:
    named = data.root or os.environ.get("FEDRAY_DATA", "")
    try:
        root = Path(named or "data").expanduser()
        exists = root.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, a name too long, a null character
        raise BadInputError(f"the folder {named[:200]!r} cannot be looked into: {error}") from None
    if named and not exists:
        said_by = "data.root" if data.root else "FEDRAY_DATA"
        raise BadInputError(f"the folder {root} that {said_by} names does not exist: {REMEDY}")
    return root


def _locate(data: Data) -> Path:
    if data.dataset == "auto":
        raise ValueError("settings with dataset 'auto' must go through resolve first")
    root = _root(data)
    folder = cifar10.locate(root)
    if folder is None:
        raise BadInputError(f"there is no CIFAR-10 in the folder {root}: {REMEDY}")
    return folder
