"""A data set from the user's own function, `package.module:function`.

The function is called without arguments, once in a process. It returns (train_images, train_labels, test_images,
test_labels), or these and train_users, or a mapping with those names, which may also have classes, mean and std. Arrays
are NumPy arrays or torch tensors. Labels are numbers of classes, or text whose values are the classes, as in Parquet.
"""

import importlib
import re
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.data.dataset import MOST_CLASSES, Dataset

ADDRESS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "train_users")
KEYS = (*ARRAYS, "classes", "mean", "std")


def read(address: str) -> Dataset:
    """The whole data set that the function returns. Without mean and std from it, both are empty."""
    return _call(_find(address), address)


def _find(address: str) -> Callable[[], Any]:
    module_name, _, name = address.partition(":")
    wrong = f"data.dataset = {address}"
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise BadInputError(
            f"{wrong}: {module_name} cannot be imported, {_say(error)}; python -m fedray also finds modules in the "
            "current folder"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        near = nearest(name, (known for known, value in vars(module).items() if callable(value)))
        raise BadInputError(f"{wrong}: {module_name} has no function {name}{near}")
    return function


@lru_cache(maxsize=1)
def _call(function: Callable[[], Any], address: str) -> Dataset:
    """The data set of the function, cached, because its fingerprint is needed before its arrays."""
    wrong = f"data.dataset = {address}"
    try:
        found = function()
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{wrong} raised {_say(error)}") from error
    parts = _name_parts(wrong, found)
    images = {split: _images(wrong, f"{split}_images", parts[f"{split}_images"]) for split in ("train", "test")}
    given = {split: _labels(wrong, f"{split}_labels", parts[f"{split}_labels"]) for split in ("train", "test")}
    for split in ("train", "test"):
        if len(images[split]) != len(given[split]):
            raise BadInputError(f"{wrong}: {len(images[split])} {split}_images, but {len(given[split])} {split}_labels")
    one, other = images["train"].shape[1:], images["test"].shape[1:]
    if one != other:
        raise BadInputError(f"{wrong}: train_images are {list(one)} each, but test_images {list(other)}")
    labels, classes = _number(wrong, given, parts.get("classes"))
    mean, std = (_per_channel(wrong, name, parts.get(name), one[0]) for name in ("mean", "std"))
    users = None if parts.get("train_users") is None else _users(wrong, parts["train_users"], len(labels["train"]))
    digest = blake2b(digest_size=16)
    for array in (*images.values(), *labels.values(), *(() if users is None else (users,))):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(repr((classes, mean, std)).encode())
    return Dataset(
        name=address,
        format="arrays",
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        mean=mean,
        std=std,
        classes=classes,
        fingerprint=digest.hexdigest(),
        train_users=users,
        note=f"{' x '.join(map(str, one))}, {len(classes)} classes",
    )


def _name_parts(wrong: str, found: Any) -> Mapping[str, Any]:
    """The parts of the function's result, by name."""
    if isinstance(found, Mapping):
        if unknown := [key for key in found if key not in KEYS]:
            near = nearest(str(unknown[0]), KEYS)
            raise BadInputError(f"{wrong} returned {unknown[0]!r}, which is none of {', '.join(KEYS)}{near}")
        if missing := [name for name in ARRAYS[:4] if name not in found]:
            raise BadInputError(f"{wrong} returned no {missing[0]}")
        return found
    if not isinstance(found, tuple | list) or len(found) not in (4, 5):
        size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise BadInputError(
            f"{wrong} returned a {type(found).__name__}{size}, not a tuple ({', '.join(ARRAYS[:4])}[, {ARRAYS[4]}]) "
            "nor a mapping with these names"
        )
    return dict(zip(ARRAYS, found, strict=False))


def _array(wrong: str, name: str, value: Any) -> np.ndarray:
    try:
        if hasattr(value, "detach"):  # a tensor, perhaps of a GPU
            value = value.detach().cpu()
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    except Exception as error:
        raise BadInputError(f"{wrong}: {name} is no array, {_say(error)}") from error
    if array.ndim == 0 or len(array) == 0:
        raise BadInputError(f"{wrong}: {name} is {'no array' if array.ndim == 0 else 'empty'}")
    return array


def _images(wrong: str, name: str, value: Any) -> np.ndarray:
    """uint8 [n, c, h, w], C-contiguous."""
    array = _array(wrong, name, value)
    if array.dtype != np.uint8:
        how = "(x * 255).round() as uint8 where they are in 0..1" if array.dtype.kind == "f" else "intensities 0..255"
        raise BadInputError(f"{wrong}: {name} are {array.dtype}, not uint8; return {how}")
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape:
        raise BadInputError(f"{wrong}: {name} are {list(array.shape)}, not [n, c, h, w] or [n, h, w]")
    if array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        raise BadInputError(
            f"{wrong}: {name} are {list(array.shape)}, channels last; return them as [n, c, h, w], "
            "transposed by (0, 3, 1, 2)"
        )
    return np.ascontiguousarray(array)


def _labels(wrong: str, name: str, value: Any) -> np.ndarray:
    """Numbers of classes, int64 [n], or text, object [n]."""
    if isinstance(value, list | tuple) and any(isinstance(label, str) for label in value):
        value = np.fromiter(value, object, len(value))  # np.asarray would turn numbers among text into text
    array = _array(wrong, name, value)
    texts = [isinstance(label, str) for label in array] if array.dtype.kind in "OUT" and array.ndim == 1 else []
    if any(texts):
        if not all(texts):
            row = texts.index(False)
            raise BadInputError(f"{wrong}: {name} are text, but {type(array[row]).__name__} in row {row}")
        return array.astype(object)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise BadInputError(f"{wrong}: {name} are {array.dtype} {list(array.shape)}, not integers or text [n]")
    if array.min() < 0 or array.max() >= MOST_CLASSES:
        raise BadInputError(
            f"{wrong}: {name} go from {array.min()} to {array.max()}; they must be numbers of classes, from 0, and "
            f"{MOST_CLASSES:,} classes are the most"
        )
    return array.astype(np.int64)


def _number(wrong: str, labels: Mapping[str, np.ndarray], names: Any) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The labels of both splits, int64 [n] in 0..K-1, and the K classes.

    The classes of text labels are `names`, or else the values in either split, sorted.
    """
    text = [split for split, own in labels.items() if own.dtype.kind == "O"]
    if not text:
        return dict(labels), _classes(wrong, names, max(int(own.max()) for own in labels.values()) + 1)
    if len(text) < len(labels):
        number = next(split for split in labels if split not in text)
        raise BadInputError(f"{wrong}: {text[0]}_labels are text, but {number}_labels are integers")
    present = sorted(set().union(*labels.values()))
    if len(present) > MOST_CLASSES:
        raise BadInputError(f"{wrong}: labels tell {len(present):,} classes apart, and {MOST_CLASSES:,} are the most")
    classes = tuple(map(str, present)) if names is None else _classes(wrong, names, len(present))
    number_of = {name: number for number, name in enumerate(classes)}
    if unknown := [name for name in present if name not in number_of]:
        raise BadInputError(f"{wrong}: {unknown[0]!r} is a label, but not in classes{nearest(unknown[0], classes)}")
    if len(number_of) < len(classes):
        raise BadInputError(f"{wrong}: classes has a name twice, so text labels are ambiguous")
    numbered = {split: np.array([number_of[name] for name in own], np.int64) for split, own in labels.items()}
    return numbered, classes


def _users(wrong: str, value: Any, examples: int) -> np.ndarray:
    """The user of each example, int64 [n] in 0..U-1, in the sorted order of the users' names."""
    array = _array(wrong, "train_users", value)
    if array.dtype.kind == "O" and all(isinstance(name, str) for name in array.ravel()):
        array = array.astype(str)
    if array.dtype.kind not in "iuUS" or array.shape != (examples,):
        shape = f"{array.dtype} {list(array.shape)}"
        raise BadInputError(f"{wrong}: train_users are {shape}, not integers or text for {examples} train_labels")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _classes(wrong: str, names: Any, least: int) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(least)))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or len(names) < least:
        raise BadInputError(f"{wrong}: classes are not a list of at least {least} texts, as many as there are labels")
    if len(names) > MOST_CLASSES:
        raise BadInputError(f"{wrong}: {len(names):,} classes are named, and {MOST_CLASSES:,} are the most")
    return tuple(names)


def _per_channel(wrong: str, name: str, value: Any, channels: int) -> tuple[float, ...]:
    if value is None:
        return ()
    try:
        numbers = tuple(map(float, value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != channels or not all(isfinite(x) and (x > 0 or name == "mean") for x in numbers):
        raise BadInputError(f"{wrong}: {name} is {value!r}, not {channels} numbers, one for each channel")
    return numbers


def _say(error: BaseException) -> str:
    """An exception and the place where it was raised, in short."""
    places = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, SystemExit):  # trackers put a function of their own in the place of sys.exit
        places = [at for at in places if at.name != "exit"] or places
    last = places[-1]
    ours = last.filename.startswith("<") or last.filename in (__file__, importlib.__file__)
    return f"{type(error).__name__}: {error}" + ("" if ours else f" ({Path(last.filename).name}, line {last.lineno})")
