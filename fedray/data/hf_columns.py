"""Columns of a data set of Hugging Face's `datasets` as arrays."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedray.core.errors import BadInputError

ROWS = 1000  # that are read together
NUMBERS = ("integers", "floats", "bools")
LISTS = ("integer lists", "float lists", "bool lists", "array")


def kind_of(feature: Any) -> str:
    """The kind of a column's values: "image", "class", "integers", "floats", "bools", "text", one of "classes",
    "integer lists", "float lists" and "bool lists", "array", or the name of another feature.

    It goes by names, since `datasets` 4 renamed the lists.
    """
    name = type(feature).__name__
    if name in ("List", "LargeList", "Sequence", "list"):
        inner = kind_of(feature[0] if isinstance(feature, list) else feature.feature)
        lists = {"class": "classes", **{each: f"{each.removesuffix('s')} lists" for each in NUMBERS}}
        return lists.get(inner, f"lists of {inner}")
    if name in ("Image", "ClassLabel"):
        return {"Image": "image", "ClassLabel": "class"}[name]
    if name.startswith("Array") and name.endswith("D"):
        return "array"
    if name != "Value":
        return name
    dtype = str(feature.dtype)
    kinds = {"int": "integers", "uint": "integers", "float": "floats", "bool": "bools", "string": "text"}
    return kinds.get(dtype.rstrip("0123456789").removeprefix("large_"), dtype)


class Columns:
    """The columns of one split."""

    def __init__(self, split: Any, said: str):
        """`said` is the beginning of sentences about the split."""
        self.split, self.said = split, said

    def __len__(self) -> int:
        return len(self.split)

    def array(self, name: str) -> np.ndarray:
        """A column of numbers or texts [n], of lists of one length [n, length], or of arrays [n, ...]."""
        kind = kind_of(self.split.features[name])
        if kind == "array":
            return np.stack(list(self.split.with_format("numpy")[name]))
        if kind.endswith(" lists") or kind == "classes":
            flat, lengths = self.lists(name)
            if len(set(lengths.tolist())) > 1:
                row = int(np.flatnonzero(lengths != lengths[0])[0])
                raise BadInputError(
                    f"{self.said} has {lengths[row]} numbers in row {row} of {name}, not {lengths[0]} as in the first"
                )
            return flat.reshape(len(lengths), -1)
        parts = [self.whole(part, name, row).to_numpy(zero_copy_only=False) for row, part in self.parts(name)]
        return np.concatenate(parts) if parts else np.empty(0)

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """All numbers of a column of lists, one list after another, and the lengths of the lists [n]."""
        import pyarrow.compute as pc

        flat, lengths = [], []
        for row, part in self.parts(name):
            lists = self.whole(part, name, row)
            inner = self.whole(lists.flatten(), name, row)
            flat.append(inner.to_numpy(zero_copy_only=False))
            lengths.append(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        return np.concatenate(flat), np.concatenate(lengths).astype(np.int64)

    def contents(self, name: str) -> Iterator[tuple[int, list[bytes]]]:
        """A column of encoded images: rows, each with the next images. Those in files of their own are read there."""
        for row, part in self.parts(name):
            images = self.whole(part, name, row).to_pylist()
            yield row, [self.content(image, name, row + i) for i, image in enumerate(images)]

    def content(self, image: dict[str, Any], name: str, row: int) -> bytes:
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return Path(image["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise BadInputError(
                f"{self.said} has an image in row {row} of {name} that cannot be read: {error}"
            ) from None

    def parts(self, name: str) -> Iterator[tuple[int, Any]]:
        """The first row of each part of a column, and its Arrow array."""
        row = 0
        for table in self.split.select_columns([name]).with_format("arrow").iter(ROWS):
            for part in table.column(name).chunks:
                yield row, part
                row += len(part)

    def whole(self, part: Any, name: str, row: int) -> Any:
        """The same Arrow array; BadInputError where a value is missing."""
        if part.null_count:
            missing = row + int(np.flatnonzero(part.is_null().to_numpy(zero_copy_only=False))[0])
            raise BadInputError(f"{self.said} has no value in row {missing} of {name}, and nothing fills it in")
        return part


def pad(splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], int | None]:
    """Token ids [n, length] of lists in several splits, as `Columns.lists` gives them, and the id of the padding.

    Shorter lists are padded at their end with an id of its own, the highest one and one. None without any shorter.
    """
    longest = max(int(lengths.max(initial=0)) for _, lengths in splits)
    if all((lengths == longest).all() for _, lengths in splits):
        return [flat.reshape(len(lengths), -1) for flat, lengths in splits], None
    padding = max(int(flat.max(initial=0)) for flat, _ in splits) + 1
    found = []
    for flat, lengths in splits:
        ids = np.full((len(lengths), longest), padding, np.int64)
        ids[np.arange(longest) < lengths[:, None]] = flat
        found.append(ids)
    return found, padding


def multi_hot(flat: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """Lists of numbers below `count` as bool [n, count]."""
    labels = np.zeros((len(lengths), count), bool)
    labels[np.repeat(np.arange(len(lengths)), lengths), flat] = True
    return labels
