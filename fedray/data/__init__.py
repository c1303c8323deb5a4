"""Data sets, two arrays a split, and the section of the settings that chooses one.

`Data` is the section. `resolve` replaces "auto" by a data set. `fingerprint` hashes the bytes that `load` reads. PNG
and JPEG images are decoded once and then come from a cache (cache.py), whose key is the content of their files.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.core.randomness import generator
from fedray.core.settings import Auto, nearest, section, setting
from fedray.data import function, hf, parquet, parquet_folder, synthetic
from fedray.data.dataset import BINS, Dataset, Split, measure, measure_values
from fedray.data.hf_choice import PREFIX, Wanted
from fedray.data.published import CIFAR10, PUBLISHED

__all__ = ["Data", "Dataset", "Split", "fingerprint", "hold_out", "load", "resolve"]

OFFLINE = "--data.dataset synthetic"
CUTOUT = 16  # the best side on CIFAR-10 in DeVries and Taylor 2017, section 4.2
NAMES = ("auto", *PUBLISHED, "synthetic", "parquet")
OTHER_NAMES = {"fmnist": "fashion_mnist", "cifar": "cifar10", "imagefolder": "parquet", "huggingface": "parquet"}
"""Other names of data sets, where the most similar one is another or there is none."""


@section
class Data:
    """The data set: its name, its place on disk, its columns, how much of it is used, and the augmentation."""

    dataset: str = setting(
        "auto",
        f"Data set: {', '.join(NAMES[1:])} (any folder of images in Parquet), or package.module:function that returns "
        "training and test inputs and targets: images as uint8, values as floats or token ids as integers, with "
        "classes, labels or real targets; or hf:NAME or hf:NAME:CONFIG of Hugging Face's datasets, where NAME may be a "
        "folder; auto is cifar10 where that is on disk, and otherwise synthetic, which is generated.",
    )
    root: str = setting("", "Folder of the data; empty: the environment variable FEDRAY_DATA, or else data/.")
    augment: Literal["none", "crop-flip", "cutout", "crop-flip-cutout"] = setting(
        "none",
        "Augmentation of training images: crop-flip pads by 4 pixels, crops at random and mirrors half of the images; "
        "cutout blanks a square at a random place to the mean colour of normalisation; crop-flip-cutout does both in "
        "this order.",
    )
    cutout: int = setting(
        CUTOUT, "Side of the square that cutout blanks; it may lie partly outside the image.", unit="pixels", ge=1
    )
    sampling: Literal["shuffle", "balanced"] = setting(
        "shuffle",
        "How a client draws an epoch: shuffle, each example of its shard once; balanced, as many, with replacement, of "
        "which each class in the shard is as likely.",
    )
    train_examples: int = setting(
        0, "Number of training examples to use, the first ones; 0: all.", unit="examples", ge=0
    )
    test_examples: int = setting(0, "Number of test examples to use, the first ones; 0: all.", unit="examples", ge=0)
    validation_examples: int = setting(
        0,
        "Number of training examples to hold out for choosing settings, the same for every seed; 0: none.",
        unit="examples",
        ge=0,
    )
    holdout_examples: int = setting(
        0,
        "Parquet, hf: without test files, number of training examples to hold out as the test set, drawn at random, "
        "the same for every seed; with data.user_column a user may have examples in both sets.",
        unit="examples",
        ge=0,
    )
    image_column: Auto[str] = setting(
        None, "Parquet, hf: the column of encoded images; auto: the only column of bytes, or of structs with bytes."
    )
    input_columns: str = setting(
        "",
        "hf: the columns of the inputs, with commas between them: one of images, of lists or of arrays, or numbers as "
        "a table; empty: the only column of images, or input_ids, or the only one of lists or arrays, or all numbers "
        "but the label and the user.",
    )
    label_column: Auto[str] = setting(
        None,
        "Parquet, hf: the column of labels, integers or text, of hf also real numbers or lists; auto: label, labels, "
        "fine_label, of hf also target and targets, or else the only column of integers, of hf of ClassLabel.",
    )
    user_column: str = setting(
        "", "Parquet, hf: the column with the user of each training example, integers or text; empty: no column."
    )
    image_size: Auto[int] = setting(
        None,
        "Parquet, hf: side of the square to which images are resized, bilinearly, when they are decoded; auto: no "
        "resizing, and all images must have one size.",
        unit="pixels",
        ge=1,
        le=4096,
    )

    target_bins: int = setting(
        BINS,
        "Real targets: bins by the quantiles of the first target in the training set, which stand for classes in "
        "partitions, in tables and in clients' own test sets.",
        ge=1,
        le=1000,
    )

    def __post_init__(self) -> None:
        if self.cutout != CUTOUT and "cutout" not in self.augment:
            raise BadInputError(
                f"data.cutout = {self.cutout} is for data.augment = cutout and crop-flip-cutout, not {self.augment}"
            )
        of_hub = self.dataset.startswith(PREFIX)
        if of_hub and not self.dataset.removeprefix(PREFIX).partition(":")[0]:
            raise BadInputError(f"data.dataset = {self.dataset} has no name after {PREFIX}")
        if self.dataset not in NAMES and not of_hub and not function.ADDRESS.fullmatch(self.dataset):
            raise BadInputError(
                f"data.dataset = {self.dataset!r} is neither one of {', '.join(NAMES)} nor hf:NAME nor "
                f"package.module:function{nearest(self.dataset, NAMES, OTHER_NAMES)}"
            )
        of_parquet = ("holdout_examples", "image_column", "label_column", "user_column", "image_size")
        used = dict.fromkeys(of_parquet, self.dataset == "parquet") | {"input_columns": False}
        if not of_hub and (given := [name for name, is_used in used.items() if getattr(self, name) and not is_used]):
            wanted = "parquet or hf:NAME" if given[0] in of_parquet else "hf:NAME"
            raise BadInputError(
                f"data.{given[0]} = {getattr(self, given[0])} goes with data.dataset = {wanted}, not {self.dataset}"
            )


def resolve(data: Data) -> Data:
    """The same settings with "auto" replaced: by "cifar10" where that is on disk, else by "synthetic".

    BadInputError where the folder that `data.root` or FEDRAY_DATA names does not exist or holds other data sets: a
    mistyped folder must not choose the data set.
    """
    if data.dataset != "auto":
        return data
    root = _root(data)
    found = CIFAR10.locate(root)
    named = bool(data.root or os.environ.get("FEDRAY_DATA"))
    if not found and (parquet.holds_parquet(root) or (named and CIFAR10.others(root))):
        raise BadInputError(f"{CIFAR10.missing(root)}; set data.dataset to the data set you want, or {OFFLINE}")
    return dataclasses.replace(data, dataset="cifar10" if found else "synthetic")


def fingerprint(data: Data) -> str:
    """A hash of the bytes that `load` would read, 32 hex digits, the same in every folder. No image is decoded.

    It does not depend on the number of examples used. `data` must be resolved. BadInputError where a file is missing.
    """
    if data.dataset == "synthetic":
        return synthetic.FINGERPRINT
    if data.dataset == "parquet":
        return parquet_folder.fingerprint(parquet_folder.locate(_root(data)), tested=not data.holdout_examples)
    if data.dataset in PUBLISHED:
        return PUBLISHED[data.dataset].fingerprint(_locate(data))
    if data.dataset.startswith(PREFIX):
        return hf.fingerprint(_of_hub(data))
    return function.read(_checked(data).dataset).fingerprint


def load(data: Data, identity: str = "") -> Dataset:
    """Read or generate a data set. `data` must be resolved; `identity` is its `fingerprint`, where that is known.

    Whole splits of PNG or JPEG images are kept in a cache, whose arrays are mapped from disk the next time.
    BadInputError names the file and the row where one is damaged. It names both numbers where there are too few
    examples, or where cutout would blank a whole image.
    """
    found = dataclasses.replace(_read(data, identity or fingerprint(data)), target_bins=data.target_bins)
    for split, count in (("train", data.train_examples), ("test", data.test_examples)):
        if count > len(present := getattr(found, f"{split}_labels")):
            raise BadInputError(f"data.{split}_examples is {count}, but there are only {len(present)} {split} examples")
    _check_kind(data, found)
    taken = [found.train_images, found.train_labels, *([] if found.train_users is None else [found.train_users])]
    rows = slice(data.train_examples or None)
    train, validation = hold_out([part[rows] for part in taken], data.validation_examples)
    test = slice(data.test_examples or None)
    measured = ((), ()) if found.mean and found.std else _measured(found.kind, train[0])
    # Users without an example left are not counted.
    names, users = (None, None) if found.train_users is None else np.unique(train[2], return_inverse=True)
    unseen = len(np.setdiff1d(found.test_labels[test], train[1])) if found.kind.targets == "classes" else 0
    notes = [found.note, "" if names is None else f"{len(names)} users"]
    unit = found.unit
    notes.append(f"{unseen} of the test {unit}' classes in no training {unit.removesuffix('s')}" if unseen else "")
    return dataclasses.replace(
        found,
        train_images=train[0],
        train_labels=train[1],
        test_images=found.test_images[test],
        test_labels=found.test_labels[test],
        validation_images=validation[0],
        validation_labels=validation[1],
        train_users=users,
        note=", ".join(filter(None, notes)),
        mean=found.mean or measured[0],
        std=found.std or measured[1],
    )


def hold_out(
    train: Sequence[np.ndarray], count: int, split: Split = "validation"
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Two lists of arrays, with a row for each example: the examples to train on, and `count` random ones held out.

    Both keep the order of `train`, whose second array must be the labels. Each split is drawn at its own address.
    BadInputError where no example would be left to train on.
    """
    n, setting = len(train[1]), {"validation": "validation_examples", "test": "holdout_examples"}[split]
    if count >= n:
        raise BadInputError(f"data.{setting} is {count}, which leaves none of the {n} training examples")
    held = np.zeros(n, dtype=bool)
    held[generator(0, "validation", epoch=int(split == "test")).permutation(n)[:count]] = True
    return (train if count == 0 else [part[~held] for part in train]), [part[held] for part in train]


def _read(data: Data, identity: str) -> Dataset:
    """The data set with at least the first examples of each split that the settings ask for."""
    counts = {"train": data.train_examples, "test": data.test_examples}
    if data.dataset == "synthetic":
        return synthetic.read(counts)
    if data.dataset == "parquet":
        wanted = parquet_folder.Wanted(data.image_column, data.label_column, data.user_column, data.image_size)
        folder = parquet_folder.locate(_root(data))
        if not data.holdout_examples:
            return parquet_folder.read(folder, wanted, counts, identity)
        # All training files are read, so that the test set does not depend on data.train_examples.
        whole = parquet_folder.read(folder, wanted, {"train": 0}, identity, tested=False)
        return _draw_test(whole, data.holdout_examples)
    if data.dataset in PUBLISHED:
        return PUBLISHED[data.dataset].read(_locate(data), counts, identity)
    if data.dataset.startswith(PREFIX):
        if not data.holdout_examples:
            return hf.read(_of_hub(data), counts)
        return _draw_test(hf.read(_of_hub(data), {}), data.holdout_examples)
    return function.read(_checked(data).dataset)


def _of_hub(data: Data) -> Wanted:
    """What the settings ask of Hugging Face's datasets."""
    return Wanted(
        dataset=data.dataset,
        root=_root(data),
        image_column=data.image_column,
        input_columns=data.input_columns,
        label_column=data.label_column,
        user_column=data.user_column,
        image_size=data.image_size,
        tested=not data.holdout_examples,
    )


def _draw_test(found: Dataset, count: int) -> Dataset:
    """The data set with `count` of its training examples as the test split."""
    parts = [found.train_images, found.train_labels, *([] if found.train_users is None else [found.train_users])]
    train, test = hold_out(parts, count, "test")
    files = "examples" if found.name.startswith(PREFIX) else "files"
    return dataclasses.replace(
        found,
        train_images=train[0],
        train_labels=train[1],
        train_users=None if found.train_users is None else train[2],
        test_images=test[0],
        test_labels=test[1],
        note=f"{found.note}, test {found.unit} held out of the training {files}",
    )


def _checked(data: Data) -> Data:
    if data.dataset == "auto":
        raise ValueError("settings with dataset 'auto' must go through resolve first")
    return data


def _measured(kind: Kind, inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation by which inputs of this kind are normalised; empty where they are not."""
    if kind.inputs == "tokens":
        return (), ()
    return measure(inputs) if kind.inputs == "images" else measure_values(inputs)


def _check_kind(data: Data, found: Dataset) -> None:
    """BadInputError for a setting that the kind of the data set has no use for."""
    if data.target_bins != BINS and found.kind.targets != "values":
        raise BadInputError(
            f"data.target_bins = {data.target_bins} is for real targets, and {found.name} has {found.kind.targets}"
        )
    if data.augment != "none" and found.kind.inputs != "images":
        raise BadInputError(
            f"data.augment = {data.augment} is for uint8 images, and the inputs of {found.name} are {found.kind.inputs}"
        )
    *_, height, width = 1, *found.train_images.shape
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
        raise BadInputError(f"the folder {named[:200]!r} cannot be read: {error}") from None
    if named and not exists:
        said_by = "data.root" if data.root else "FEDRAY_DATA"
        remedy = "" if data.dataset == "parquet" else f": {_remedy(data.dataset)}"
        raise BadInputError(f"the folder {root} that {said_by} names does not exist{remedy}")
    return root


def _locate(data: Data) -> Path:
    root, published = _root(data), PUBLISHED[data.dataset]
    folder = published.locate(root)
    if folder is None:
        raise BadInputError(f"{published.missing(root)}: {_remedy(data.dataset)}")
    return folder


def _remedy(name: str) -> str:
    return f"run `{PUBLISHED.get(name, CIFAR10).original.download}` to download it, or stay offline with {OFFLINE}"
