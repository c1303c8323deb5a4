"""Arrays that the user's code gives, made into a data set: what their type and shape say that they are.

Inputs are images where they are uint8 [n, c, h, w] or [n, h, w], values where they are floats [n, ...], and token ids
where they are other integers [n, length], or any with `vocabulary` or `padding`. Targets are classes where they are
integers or text [n], labels where they are bool or integers [n, K] of 0 and 1, and real values where they are floats
[n] or [n, d]. What may be two of these is refused, and `targets` decides it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from typing import Any, Literal

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.data.dataset import MOST_CLASSES, Dataset
from fedray.data.kinds import CLASSIFIED_IMAGES, Kind

Inputs = Literal["images", "values", "tokens"]
Targets = Literal["classes", "labels", "values"]
SPLITS = ("train", "test")
MOST_TOKENS = 2**24
"""The largest vocabulary. Larger ids are rather the numbers of a table."""


@dataclass(frozen=True)
class Given:
    """What the user's code gave, by the names of the parts of a data set."""

    wrong: str
    """The beginning of each sentence about it."""
    parts: Mapping[str, Any]
    """train_images, train_labels, test_images, test_labels; and train_users, classes, mean, std, vocabulary, padding
    and targets where there are any."""
    names: Mapping[str, str]
    """The user's names of the parts that have another one."""

    def name(self, part: str) -> str:
        return self.names.get(part, part)

    def refuse(self, part: str, why: str) -> BadInputError:
        return BadInputError(f"{self.wrong}: {self.name(part)} {why}")

    def array(self, part: str) -> np.ndarray:
        """A part as an array of at least one example."""
        value = self.parts[part]
        try:
            if hasattr(value, "detach"):  # a tensor, perhaps of a GPU
                value = value.detach().cpu()
            array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        except Exception as error:
            raise self.refuse(part, f"is no array, {type(error).__name__}: {error}") from error
        if array.ndim == 0 or len(array) == 0:
            raise self.refuse(part, f"is {'no array' if array.ndim == 0 else 'empty'}")
        return array


def assemble(given: Given, name: str, stored_as: str = "arrays") -> Dataset:
    """The data set of these parts; BadInputError, in one sentence, where they are none. Without mean or std from the
    user's code these are empty."""
    kind, inputs = _inputs(given)
    targets, labels, classes = _targets(given)
    for split in SPLITS:
        if len(inputs[split]) != len(labels[split]):
            named = f"{len(labels[split])} {given.name(f'{split}_labels')}"
            raise BadInputError(f"{given.wrong}: {len(inputs[split])} {given.name(f'{split}_images')}, but {named}")
    kind = Kind(kind.inputs, targets, kind.vocabulary, kind.padding)
    shape = inputs["train"].shape[1:]
    mean, std = (_per_channel(given, each, shape[0], kind) for each in ("mean", "std"))
    users = None if given.parts.get("train_users") is None else _users(given, len(labels["train"]))
    digest = blake2b(digest_size=16)
    for array in (*inputs.values(), *labels.values(), *(() if users is None else (users,))):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(repr((classes, mean, std)).encode())
    if kind != CLASSIFIED_IMAGES:
        digest.update(repr((kind.inputs, kind.targets, kind.vocabulary, kind.padding)).encode())
    return Dataset(
        name=name,
        format=stored_as,
        train_images=inputs["train"],
        train_labels=labels["train"],
        test_images=inputs["test"],
        test_labels=labels["test"],
        mean=mean,
        std=std,
        classes=classes,
        fingerprint=digest.hexdigest(),
        train_users=users,
        kind=kind,
        note=f"{describe_inputs(shape, kind)}, {describe_targets(len(classes), kind)}",
    )


def describe_inputs(shape: tuple[int, ...], kind: Kind) -> str:
    """`3 x 32 x 32`, `30 values`, `64 tokens of 5,000, padded with 0`."""
    size = " x ".join(map(str, shape))
    if kind.inputs == "tokens":
        padded = "" if kind.padding is None else f", padded with {kind.padding}"
        return f"{size} tokens of {kind.vocabulary:,}{padded}"
    return size if kind.inputs == "images" else f"{size} values"


def describe_targets(count: int, kind: Kind) -> str:
    """`10 classes`, `14 labels`, `1 real target`."""
    if kind.targets == "values":
        return f"{count} real target{'s' if count > 1 else ''}"
    return f"{count} {kind.targets}"


def _inputs(given: Given) -> tuple[Kind, dict[str, np.ndarray]]:
    """The kind of the inputs, that of the targets being left open, and both splits."""
    numbered = any(given.parts.get(each) is not None for each in ("vocabulary", "padding"))
    found = {split: _input_arrays(given, f"{split}_images", numbered) for split in SPLITS}
    (train, one), (test, other) = (found[split] for split in SPLITS)
    named = [given.name(f"{split}_images") for split in SPLITS]
    if train != test:
        raise BadInputError(f"{given.wrong}: {named[0]} are {train}, but {named[1]} {test}")
    if one.shape[1:] != other.shape[1:]:
        shapes = f"{named[0]} are {list(one.shape[1:])} each, but {named[1]} {list(other.shape[1:])}"
        raise BadInputError(f"{given.wrong}: {shapes}")
    arrays = {split: array for split, (_, array) in found.items()}
    return (_tokens(given, arrays) if train == "tokens" else Kind(train)), arrays


def _input_arrays(given: Given, part: str, numbered: bool) -> tuple[Inputs, np.ndarray]:
    array = given.array(part)
    shaped, form = f"{array.dtype} {list(array.shape)}", array.dtype.kind
    if numbered or (form in "iu" and array.ndim == 2 and array.dtype != np.uint8):
        if form not in "iu" or array.ndim != 2:
            raise given.refuse(
                part, f"are {shaped}, and vocabulary and padding are for token ids, integers [n, length]"
            )
        if array.size == 0:
            raise given.refuse(part, f"are {shaped}, which has no token")
        if array.min() < 0:
            row = int(np.flatnonzero((array < 0).any(1))[0])
            raise given.refuse(
                part, f"have {array[row].min()} in row {row}; integers [n, length] are token ids, from 0, and the "
                "numbers of a table are floats"
            )  # fmt: skip
        return "tokens", np.ascontiguousarray(array, np.int64)
    if form == "f":
        return "values", _real(given, part, array)
    if array.dtype != np.uint8:
        how = "intensities 0..255" if form in "iu" and array.ndim > 2 else "numbers as floats"
        raise given.refuse(part, f"are {shaped}, not uint8; return {how}")
    return "images", _images(given, part, array)


def _images(given: Given, part: str, array: np.ndarray) -> np.ndarray:
    """uint8 [n, c, h, w], C-contiguous."""
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape:
        also = "; with vocabulary beside them they are token ids" if array.ndim == 2 else ""
        raise given.refuse(part, f"are {list(array.shape)}, not [n, c, h, w] or [n, h, w]{also}")
    if array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        raise given.refuse(
            part, f"are {list(array.shape)}, channels last; return them as [n, c, h, w], transposed by (0, 3, 1, 2)"
        )
    return np.ascontiguousarray(array)


def _real(given: Given, part: str, array: np.ndarray) -> np.ndarray:
    """Floats as finite float32, C-contiguous, with at least two dimensions."""
    if array.ndim < 2 or 0 in array.shape:
        one = "; return [n, 1] where an example is one number" if array.ndim == 1 else ""
        raise given.refuse(part, f"are {array.dtype} {list(array.shape)}, not [n, ...]{one}")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, np.float32)
    wrong = ~np.isfinite(found.reshape(len(found), -1)).all(1)
    if wrong.any():
        row = int(wrong.argmax())
        values = array[row].ravel()
        odd = values[~np.isfinite(found[row].ravel())][0]
        raise given.refuse(part, f"have {odd} in row {row}; float32 has no such number, and nothing fills it in")
    return found


def _tokens(given: Given, arrays: Mapping[str, np.ndarray]) -> Kind:
    """The kind of token ids, with their vocabulary: the one given, or as many as there are up to the highest id."""
    largest = max(int(array.max()) for array in arrays.values())
    vocabulary, padding = (_number_of(given, each) for each in ("vocabulary", "padding"))
    known = max(largest, -1 if padding is None else padding) + 1
    if vocabulary is not None and vocabulary < known:
        which = f"the id {largest}" if largest + 1 == known else f"padding = {padding}"
        raise BadInputError(f"{given.wrong}: vocabulary is {vocabulary}, and {which} is beyond it")
    if (vocabulary or known) > MOST_TOKENS:
        raise BadInputError(
            f"{given.wrong}: a vocabulary of {vocabulary or known:,} is larger than {MOST_TOKENS:,}; the numbers of a "
            "table are floats"
        )
    for split, array in arrays.items() if padding is not None else ():
        if (bare := (array == padding).all(1)).any():
            raise given.refuse(f"{split}_images", f"have nothing but padding in row {int(bare.argmax())}")
    return Kind("tokens", vocabulary=vocabulary or known, padding=padding)


def _number_of(given: Given, part: str) -> int | None:
    value = given.parts.get(part)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < (part == "vocabulary"):
        raise given.refuse(part, f"is {value!r}, not {'a number of tokens' if part == 'vocabulary' else 'a token id'}")
    return int(value)


def _targets(given: Given) -> tuple[Targets, dict[str, np.ndarray], tuple[str, ...]]:
    """The kind of the targets, both splits as Kind says, and the names of the classes, labels or targets."""
    said = given.parts.get("targets")
    if said is not None and said not in ("classes", "labels", "values"):
        raise BadInputError(f"{given.wrong}: targets is {said!r}, none of classes, labels, values")
    found = {split: _target_arrays(given, f"{split}_labels", said) for split in SPLITS}
    kinds, names = (
        {split: kind for split, (kind, _) in found.items()},
        [given.name(f"{split}_labels") for split in SPLITS],
    )
    arrays = {split: array for split, (_, array) in found.items()}
    if kinds["train"] != kinds["test"]:
        raise BadInputError(f"{given.wrong}: {names[0]} are {kinds['train']}, but {names[1]} {kinds['test']}")
    kind: Targets = "classes" if kinds["train"] in ("text", "integers") else kinds["train"]  # type: ignore[assignment]
    if said is not None and said != kind:
        raise BadInputError(f"{given.wrong}: targets says {said}, but {names[0]} are {kind} by their type and shape")
    if kind == "classes":
        return kind, *_number(given, arrays)
    widths = [array.shape[1] for array in arrays.values()]
    if widths[0] != widths[1]:
        raise BadInputError(f"{given.wrong}: {names[0]} have {widths[0]} columns, but {names[1]} {widths[1]}")
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
        return "values", _real(given, part, array[:, None] if array.ndim == 1 else array)
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


def _users(given: Given, examples: int) -> np.ndarray:
    """The user of each example, int64 [n] in 0..U-1, in the sorted order of the users' names."""
    array = given.array("train_users")
    if array.dtype.kind == "O" and all(isinstance(name, str) for name in array.ravel()):
        array = array.astype(str)
    if array.dtype.kind not in "iuUS" or array.shape != (examples,):
        of = f"{examples} {given.name('train_labels')}"
        raise given.refuse("train_users", f"are {array.dtype} {list(array.shape)}, not integers or text for {of}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


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


def _per_channel(given: Given, part: str, channels: int, kind: Kind) -> tuple[float, ...]:
    value = given.parts.get(part)
    if value is None:
        return ()
    if kind.inputs == "tokens":
        raise given.refuse(part, "is for images and values, and token ids are not normalised")
    try:
        numbers = tuple(map(float, value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != channels or not all(isfinite(x) and (x > 0 or part == "mean") for x in numbers):
        what = "channel" if kind.inputs == "images" else "index of the first axis of an example"
        raise given.refuse(part, f"is {value!r}, not {channels} numbers, one for each {what}")
    return numbers
