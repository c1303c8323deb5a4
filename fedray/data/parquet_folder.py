"""A data set from any folder of images in Parquet, as Hugging Face keeps them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.data import cache, parquet
from fedray.data.dataset import MOST_CLASSES, Dataset
from fedray.data.decode import find_form

TITLE = "data.dataset = parquet"
LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Wanted:
    """The columns and the image size that the settings ask for; None and "" leave them open."""

    image_column: str | None
    label_column: str | None
    user_column: str
    image_size: int | None


def locate(root: Path) -> Path:
    """The folder with training files: `root`, or the only folder in it that has them."""
    if parquet.holds_parquet(root):
        return root
    found = sorted(folder for folder in root.glob("*") if parquet.holds_parquet(folder))
    if not found:
        raise BadInputError(
            f"there is no train*.parquet in {root} nor one level down; set data.root to the folder of {TITLE}"
        )
    if len(found) > 1:
        raise BadInputError(
            f"{len(found)} folders in {root} have a train*.parquet ({', '.join(path.name for path in found)}); "
            "set data.root to one of them"
        )
    return found[0]


def find_files(folder: Path, tested: bool) -> dict[str, list[Path]]:
    """The files of both splits: "train", and "test" or, without such files, "val" (validation*, valid*).

    With `tested` False the folder must have no test files, and only "train" is returned.
    """
    train = parquet.paths(folder, "train", TITLE)
    test = next((name for name in ("test", "val") if parquet.find_files(folder, name)), None)
    if test and not tested:
        own = parquet.find_files(folder, test)[0].relative_to(folder)
        raise BadInputError(f"data.holdout_examples is for folders without test files, but {folder} has {own}")
    if test is None and tested:
        raise BadInputError(
            f"{folder} has neither test*.parquet nor validation*.parquet to evaluate on; data.holdout_examples holds "
            "out that many examples of train*.parquet for it"
        )
    return {"train": train, **({test: parquet.paths(folder, test, TITLE)} if test else {})}


def fingerprint(folder: Path, tested: bool = True) -> str:
    """A hash of every byte that `read` may read: 32 hex digits. Nothing is decoded."""
    return cache.hash_files((split, path) for split, files in find_files(folder, tested).items() for path in files)


def read(folder: Path, wanted: Wanted, counts: Mapping[str, int], identity: str, tested: bool = True) -> Dataset:
    """The first `counts` examples of each split (0: all); `identity` is the folder's fingerprint.

    Decoded images come from the cache where it has them, and whole splits are kept there. Mean and std are empty: the
    caller measures them. With `tested` False the test split is empty: the caller holds it out. BadInputError names the
    file, and the row or the setting, where something does not fit.
    """
    (_, train), *others = find_files(folder, tested).items()
    split, test = others[0] if others else ("", [])
    wanted = choose_columns(train[0], wanted)
    image, label = str(wanted.image_column), str(wanted.label_column)
    labels, classes = read_labels([train, test], label)
    where, first = parquet.first_image(train, image)
    form = find_form(where, first, wanted.image_size)
    if form.shape[0] == 1 and parquet.any_colour(train, image):  # of all rows, so train_examples changes nothing
        form = dataclasses.replace(form, shape=(3, *form.shape[1:]))

    def images(files: Sequence[Path], own: np.ndarray, name: str) -> cache.Split:
        count = counts[name]

        def decode() -> cache.Split:
            pixels, encoding = parquet.read_images(files, image, form, count)
            if len(pixels) != len(own[: count or None]):
                raise BadInputError(f"{folder} has {len(own)} labels but {len(pixels)} images in its split {name}")
            return pixels, own[: count or None], encoding

        kept = cache.place(identity, name, image, label, wanted.image_size)
        return cache.decoded_once(kept, count, decode, lambda: fingerprint(folder, tested) == identity)

    train_images, train_labels, encoding = images(train, labels[0], "train")
    test_images, test_labels = images(test, labels[1], "test")[:2] if test else (train_images[:0], labels[1])
    users = None
    if wanted.user_column:
        parquet.find_kind(train, wanted.user_column)
        (users,), _ = parquet.encode([train], wanted.user_column)
        users = users[: counts["train"] or None]
    channels, height, width = form.shape
    said = [f"{channels} x {height} x {width}", f"{len(classes)} classes"]
    said += [f"test images from {test[0].relative_to(folder)}"] if split == "val" else []
    return Dataset(
        name="parquet",
        format=encoding,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        mean=(),
        std=(),
        classes=classes,
        fingerprint=identity,
        train_users=users,
        note=", ".join(said),
    )


def choose_columns(path: Path, wanted: Wanted) -> Wanted:
    """`wanted` with the columns of images and labels chosen from those of a file."""
    types = parquet.read_types(path)
    for setting in ("image_column", "label_column", "user_column"):
        name = getattr(wanted, setting)
        if name and name not in types:
            has = f"{path} has no such column, but {', '.join(types) or 'none'}{nearest(name, types)}"
            raise BadInputError(f"data.{setting} = {name}: {has}")
    image, label = wanted.image_column, wanted.label_column
    if not image:
        image = _only(path, "image", "a struct with binary bytes", [n for n in types if parquet.content_type(types[n])])
    elif parquet.content_type(types[image]) is None:
        raise BadInputError(f"data.image_column = {image}: in {path} it holds no encoded images, but {types[image]}")
    usable = {name: parquet.value_kind(kind) for name, kind in types.items() if name != wanted.user_column}
    if not label:
        usual = [name for name in LABELS if usable.get(name)][:1]
        integers = [name for name, kind in usable.items() if kind == "integers"]
        label = _only(path, "label", "integers", usual or integers)
    elif label == wanted.user_column:
        raise BadInputError(f"data.label_column and data.user_column are both {label}")
    for setting, name in (("label_column", label), ("user_column", wanted.user_column)):
        if name and not parquet.value_kind(types[name]):
            raise BadInputError(f"data.{setting} = {name}: in {path} it holds {types[name]}, not integers or text")
    return dataclasses.replace(wanted, image_column=image, label_column=label)


def read_labels(splits: Sequence[Sequence[Path]], column: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The labels of both splits, int64 [n] in 0..K-1, and the K classes.

    Integers are positions in Hugging Face's list of class names, where the files have one. Otherwise the classes are
    the values in either split, sorted.
    """
    named = parquet.class_names(splits[0][0], column)
    if parquet.find_kind([path for files in splits for path in files], column) == "integers" and named:
        labels, values = [parquet.read_labels(files, column, len(named)) for files in splits], list[Any](named)
    else:
        labels, values = parquet.encode(splits, column)
    if values and not isinstance(values[0], str) and values[0] < 0:
        at = next(files[0] for files, own in zip(splits, labels, strict=True) if not own.all())
        raise BadInputError(
            f"data.label_column = {column} has {values[0]} in the split of {at}: a number below 0 is no class, but "
            "stands for an unknown label"
        )
    if len(values) > MOST_CLASSES:
        raise BadInputError(
            f"data.label_column = {column} tells {len(values):,} classes apart in {splits[0][0].parent}, and "
            f"{MOST_CLASSES:,} are the most"
        )
    return labels, tuple(map(str, values))


def _only(path: Path, what: str, kind: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    found = f"{len(names)} columns that may be ({', '.join(names)})" if names else "none that can be"
    raise BadInputError(f"data.{what}_column must say which column of {path} is the {what}, {kind}: it has {found}")
