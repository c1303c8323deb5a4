"""Arrays that the user's code gives, made into a data set: what their type and shape say that they are.

Inputs are images where they are uint8 [n, c, h, w] or [n, h, w], values where they are floats [n, ...], and token ids
where they are other integers [n, length], or any with `vocabulary` or `padding`. Targets are classes where they are
integers or text [n], labels where they are bool or integers [n, K] of 0 and 1, and real values where they are floats
[n] or [n, d]. What may be two of these is refused, and `targets` decides it.
"""

from collections.abc import Mapping
from hashlib import blake2b
from math import isfinite
from typing import Literal

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.data.dataset import Dataset
from fedray.data.given import SPLITS, Given, real
from fedray.data.targets import read_targets

Inputs = Literal["images", "values", "tokens"]
MOST_TOKENS = 2**24
"""The largest vocabulary. Larger ids are rather the numbers of a table."""


def assemble(given: Given, name: str, stored_as: str = "arrays") -> Dataset:
    """The data set of these parts; BadInputError, in one sentence, where they are none. Without mean or std from the
    user's code these are empty."""
    kind, inputs = _inputs(given)
    targets, labels, classes = read_targets(given)
    for split in given.splits:
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
        test_images=inputs.get("test", inputs["train"][:0]),
        test_labels=labels.get("test", labels["train"][:0]),
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
        return f"{size} token{'' if size == '1' else 's'} of {kind.vocabulary:,}{padded}"
    return size if kind.inputs == "images" else f"{size} value{'' if size == '1' else 's'}"


def describe_targets(count: int, kind: Kind) -> str:
    """`10 classes`, `14 labels`, `1 real target`."""
    if kind.targets == "values":
        return f"{count} real target{'s' if count > 1 else ''}"
    return f"{count} {kind.targets}"


def _inputs(given: Given) -> tuple[Kind, dict[str, np.ndarray]]:
    """The kind of the inputs, that of the targets being left open, and both splits."""
    numbered = any(given.parts.get(each) is not None for each in ("vocabulary", "padding"))
    found = {split: _input_arrays(given, f"{split}_images", numbered) for split in given.splits}
    (train, one), (test, other) = (found[split] for split in (given.splits[0], given.splits[-1]))
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
        return "values", real(given, part, array)
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


def _users(given: Given, examples: int) -> np.ndarray:
    """The user of each example, int64 [n] in 0..U-1, in the sorted order of the users' names."""
    array = given.array("train_users")
    if array.dtype.kind == "O" and all(isinstance(name, str) for name in array.ravel()):
        array = array.astype(str)
    if array.dtype.kind not in "iuUS" or array.shape != (examples,):
        of = f"{examples} {given.name('train_labels')}"
        raise given.refuse("train_users", f"are {array.dtype} {list(array.shape)}, not integers or text for {of}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


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
