"""Targets that the user's code gives: classes, labels or real values, by their type and shape."""

from typing import Any, Literal

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.data.dataset import MOST_CLASSES
from fedray.data.given import SPLITS, Given, real

Targets = Literal["classes", "labels", "values"]


def read_targets(given: Given) -> tuple[Targets, dict[str, np.ndarray], tuple[str, ...]]:
    """The kind of the targets, both splits as Kind says, and the names of the classes, labels or targets."""
    said = given.parts.get("targets")
    if said is not None and said not in ("classes", "labels", "values"):
        raise BadInputError(f"{given.wrong}: targets is {said!r}, none of classes, labels, values")
    found = {split: _target_arrays(given, f"{split}_labels", said) for split in given.splits}
    kinds, names = (
        {split: kind for split, (kind, _) in found.items()},
        [given.name(f"{split}_labels") for split in SPLITS],
    )
    arrays = {split: array for split, (_, array) in found.items()}
    if len(set(kinds.values())) > 1:
        raise BadInputError(f"{given.wrong}: {names[0]} are {kinds['train']}, but {names[1]} {kinds['test']}")
    kind: Targets = "classes" if kinds["train"] in ("text", "integers") else kinds["train"]  # type: ignore[assignment]
    if said is not None and said != kind:
        raise BadInputError(f"{given.wrong}: targets says {said}, but {names[0]} are {kind} by their type and shape")
    if kind == "classes":
        return kind, *_number(given, arrays)
    widths = [array.shape[1] for array in arrays.values()]
    if widths[0] != widths[-1]:
        raise BadInputError(f"{given.wrong}: {names[0]} have {widths[0]} columns, but {names[1]} {widths[-1]}")
    if widths[0] > MOST_CLASSES:
        raise BadInputError(f"{given.wrong}: {names[0]} have {widths[0]:,} columns, and {MOST_CLASSES:,} are the most")
    if said is None and all(np.isin(array, (0, 1)).all() for array in arrays.values()) and widths[0] > 1:
        if kind == "values":
            raise BadInputError(
                f"{given.wrong}: {names[0]} are floats [n, {widths[0]}] of 0 and 1; return bool, or targets = labels, "
                "where an example has any of these labels, and targets = values where these are numbers"
            )
        if all((array.sum(1) == 1).all() for array in arrays.values()):
            raise BadInputError(
                f"{given.wrong}: {names[0]} have one 1 in every row; return numbers of classes, argmax(1), or "
                "targets = labels, where an example might have any of these labels"
            )
    return kind, arrays, _exactly(given, widths[0], kind)


def _target_arrays(given: Given, part: str, said: str | None) -> tuple[str, np.ndarray]:
    """The kind of a split's targets, of classes "text" or "integers", and the targets as Kind says or text [n]."""
    value = given.parts[part]
    if isinstance(value, list | tuple) and any(isinstance(label, str) for label in value):
        array = np.fromiter(value, object, len(value))  # np.asarray would turn numbers among text into text
    else:
        array = given.array(part)
    shaped = f"{array.dtype} {list(array.shape)}"
    texts = [isinstance(label, str) for label in array] if array.dtype.kind in "OUT" and array.ndim == 1 else []
    if any(texts):
        if not all(texts):
            row = texts.index(False)
            raise given.refuse(part, f"are text, but {type(array[row]).__name__} in row {row}")
        return "text", array.astype(object)
    if array.dtype.kind == "f" and array.ndim in (1, 2) and 0 not in array.shape and said != "labels":
        return "values", real(given, part, array[:, None] if array.ndim == 1 else array)
    if array.dtype.kind in "biuf" and array.ndim == 2 and array.shape[1]:
        wrong = ~np.isin(array, (0, 1)).all(1)
        if wrong.any():
            row = int(wrong.argmax())
            odd = array[row][~np.isin(array[row], (0, 1))][0]
            raise given.refuse(
                part, f"have {odd} in row {row}; {shaped} are labels of which an example has any, 0 or 1, and numbers "
                "of classes are [n]"
            )  # fmt: skip
        return "labels", np.ascontiguousarray(array, np.float32)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        how = "; for two classes return integers, for one label [n, 1]" if array.dtype.kind == "b" else ""
        raise given.refuse(part, f"are {shaped}, not integers or text [n], labels [n, K] or floats{how}")
    if array.min() < 0 or array.max() >= MOST_CLASSES:
        raise given.refuse(
            part, f"go from {array.min()} to {array.max()}; they must be numbers of classes, from 0, and "
            f"{MOST_CLASSES:,} classes are the most; numbers to be predicted are floats"
        )  # fmt: skip
    return "integers", array.astype(np.int64)


def _number(given: Given, labels: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The labels of both splits, int64 [n] in 0..K-1, and the K classes.

    The classes of text labels are `classes`, or else the values in either split, sorted.
    """
    names = given.parts.get("classes")
    if labels["train"].dtype.kind != "O":
        return labels, _classes(given, names, max(int(own.max()) for own in labels.values()) + 1)
    present = sorted(set().union(*labels.values()))
    if len(present) > MOST_CLASSES:
        raise BadInputError(
            f"{given.wrong}: labels tell {len(present):,} classes apart, and {MOST_CLASSES:,} are the most"
        )
    classes = tuple(map(str, present)) if names is None else _classes(given, names, len(present))
    number_of = {name: number for number, name in enumerate(classes)}
    if unknown := [name for name in present if name not in number_of]:
        raise BadInputError(
            f"{given.wrong}: {unknown[0]!r} is a label, but not in classes{nearest(unknown[0], classes)}"
        )
    if len(number_of) < len(classes):
        raise BadInputError(f"{given.wrong}: classes has a name twice, so text labels are ambiguous")
    numbered = {split: np.array([number_of[name] for name in own], np.int64) for split, own in labels.items()}
    return numbered, classes


def _classes(given: Given, names: Any, least: int) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(least)))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or len(names) < least:
        raise given.refuse("classes", f"are not a list of at least {least} texts, as many as there are labels")
    if len(names) > MOST_CLASSES:
        raise BadInputError(f"{given.wrong}: {len(names):,} classes are named, and {MOST_CLASSES:,} are the most")
    return tuple(names)


def _exactly(given: Given, count: int, kind: Targets) -> tuple[str, ...]:
    """The names of `count` labels or real targets: `classes`, or else their numbers."""
    names = given.parts.get("classes")
    if names is not None and (not isinstance(names, list | tuple) or len(names) != count):
        what = "label" if kind == "labels" else "real target"
        raise given.refuse("classes", f"are not a list of {count} texts, a name for each {what}")
    return _classes(given, names, count)
