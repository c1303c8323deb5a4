"""A data set of Hugging Face's `datasets`: `hf:NAME`, `hf:NAME:CONFIG`, or the path of a folder in place of the name.

Inputs are a column of images, a column of lists of token ids or of arrays, or numeric columns as a table. The library
is an extra of fedray's, and is imported here alone.
"""

import dataclasses
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.limits import available_memory, cores
from fedray.data import cache
from fedray.data.arrays import assemble
from fedray.data.dataset import MOST_CLASSES, Dataset
from fedray.data.decode import decode, encoding_of, find_form, is_colour
from fedray.data.given import Given
from fedray.data.hf_choice import PREFIX, Wanted, choose
from fedray.data.hf_columns import LISTS, NUMBERS, Columns, kind_of, multi_hot, pad
from fedray.data.parquet import MOST_WORKERS

TESTS = ("test", "validation", "valid", "val")


def fingerprint(wanted: Wanted) -> str:
    """A hash of the columns that are read: 32 hex digits. No image is decoded."""
    return _open(wanted).fingerprint


def read(wanted: Wanted, counts: Mapping[str, int]) -> Dataset:
    """The data set, of images with the first `counts` examples of each split (0: all). Without mean and std."""
    opened = _open(wanted)
    return opened.decoded(counts) if isinstance(opened, Pictures) else opened


@lru_cache(maxsize=1)
def _open(wanted: Wanted) -> "Dataset | Pictures":
    """The data set, whose images are not decoded yet."""
    splits = {split: Columns(each, f"{wanted.wrong}: its split {name}") for split, name, each in _splits(wanted)}
    features = splits["train"].split.features
    for split, columns in splits.items():
        if columns.split.features != features:
            raise BadInputError(f"{wanted.wrong}: its splits train and {split} have other columns, or other types")
        if not len(columns):
            raise BadInputError(f"{columns.said} is empty")
    kinds = {name: kind_of(feature) for name, feature in features.items()}
    inputs, label = choose(wanted, kinds)
    parts = _targets(wanted, splits, label, kinds[label])
    if wanted.user_column:
        parts["train_users"] = splits["train"].array(wanted.user_column)
    if kinds[inputs[0]] == "image":
        return Pictures(wanted, splits, inputs[0], label, parts)
    if kinds[inputs[0]] == "integer lists":
        found, padding = pad([columns.lists(inputs[0]) for columns in splits.values()])
        parts |= {"padding": padding} | {f"{split}_images": ids for split, ids in zip(splits, found, strict=True)}
    else:
        for split, columns in splits.items():
            arrays = [columns.array(name) for name in inputs]
            is_table = kinds[inputs[0]] in NUMBERS
            parts[f"{split}_images"] = np.stack(arrays, 1).astype(np.float64) if is_table else _floats(arrays[0])
    return _named(assemble(_given(wanted, splits, parts), wanted.dataset), wanted, splits)


def _floats(array: np.ndarray) -> np.ndarray:
    """Lists and arrays as what they are, but booleans as numbers."""
    return array.astype(np.float32) if array.dtype == bool else array


def _given(wanted: Wanted, splits: Mapping[str, Columns], parts: Mapping[str, Any]) -> Given:
    names = {f"{split}_images": f"the inputs of its split {split}" for split in splits}
    return Given(
        wanted.wrong, parts, names | {f"{split}_labels": f"the targets of its split {split}" for split in splits}
    )


def _named(found: Dataset, wanted: Wanted, splits: Mapping[str, Columns]) -> Dataset:
    """The same with a word on where the test examples are from."""
    said = splits["test"].said.rpartition(" ")[2] if "test" in splits else ""
    other = "" if said in ("", "test") else f", test {found.unit} from {said}"
    return dataclasses.replace(found, note=found.note + other)


class Pictures:
    """A data set whose inputs are encoded images."""

    def __init__(
        self, wanted: Wanted, splits: Mapping[str, Columns], column: str, label: str, parts: Mapping[str, Any]
    ):
        self.wanted, self.splits, self.column, self.label = wanted, splits, column, label
        blank = {f"{split}_images": np.zeros((len(columns), 1, 1), np.uint8) for split, columns in splits.items()}
        self.without = assemble(_given(wanted, splits, {**parts, **blank}), wanted.dataset)
        """The data set with images of one pixel."""
        self.fingerprint = self.hashed()

    def hashed(self) -> str:
        digest = blake2b(self.without.fingerprint.encode(), digest_size=16)
        for split, columns in self.splits.items():
            for _, contents in columns.contents(self.column):
                for content in contents:
                    digest.update(f"{split} {len(content)} ".encode())
                    digest.update(content)
        return digest.hexdigest()

    def decoded(self, counts: Mapping[str, int]) -> Dataset:
        train = self.splits["train"]
        _, first = next(train.contents(self.column))
        form = find_form(f"{train.said} has an image in row 0 that", first[0], self.wanted.image_size)
        if form.shape[0] == 1 and any(map(is_colour, chain.from_iterable(c for _, c in train.contents(self.column)))):
            form = dataclasses.replace(form, shape=(3, *form.shape[1:]))
        whole = self.without
        found: dict[str, Any] = {}
        encoding = ""
        for split, columns in self.splits.items():
            labels, count = getattr(whole, f"{split}_labels"), counts.get(split, 0)

            def fresh(columns: Columns = columns, count: int = count, labels: np.ndarray = labels) -> cache.Split:
                images, stored = decode_all(columns, self.column, form, count)
                return images, labels[: count or None], stored

            kept = cache.place(self.fingerprint, split, "hf", self.column, self.wanted.image_size)
            if labels.dtype != np.int64 or labels.ndim > 1:
                kept = None  # the cache has classes alone
            images, labels, stored = cache.decoded_once(kept, count, fresh, lambda: self.hashed() == self.fingerprint)
            found |= {f"{split}_images": images, f"{split}_labels": labels}
            encoding = encoding or stored
        users = whole.train_users if whole.train_users is None else whole.train_users[: counts.get("train", 0) or None]
        note = f"{' x '.join(map(str, form.shape))}, {whole.note.rpartition(', ')[2]}"
        pixels = {"test_images": found["train_images"][:0], **found}
        made = dataclasses.replace(
            whole, **pixels, train_users=users, format=encoding, fingerprint=self.fingerprint, note=note
        )
        return _named(made, self.wanted, self.splits)


def decode_all(columns: Columns, column: str, form: Any, count: int) -> tuple[np.ndarray, str]:
    """The first `count` images (0: all), uint8 [n, c, h, w], and the encoding of the first."""
    present = min(len(columns), count or len(columns))
    free = available_memory()
    if present * prod(form.shape) > free:
        raise BadInputError(
            f"{columns.said} needs {present * prod(form.shape) / 1e9:.3g} GB of memory for {present:,} images, and "
            f"{free / 1e9:.3g} GB are free: use fewer, or a smaller data.image_size"
        )
    images, encoding = np.empty((present, *form.shape), np.uint8), ""
    decoding: deque[Future[None]] = deque()

    def into(row: int, contents: Sequence[bytes]) -> None:
        for at, content in enumerate(contents, row):
            images[at] = decode(f"{columns.said} has an image in row {at} that", content, form)

    workers = min(MOST_WORKERS, cores())
    with ThreadPoolExecutor(workers) as pool:
        for row, contents in columns.contents(column):
            if row >= present:
                break
            encoding = encoding or encoding_of(f"{columns.said} has an image in row 0 that", contents[0])
            decoding.append(pool.submit(into, row, contents[: present - row]))
            if len(decoding) > 2 * workers:
                decoding.popleft().result()
        for each in decoding:
            each.result()
    return images, encoding


def _targets(wanted: Wanted, splits: Mapping[str, Columns], label: str, kind: str) -> dict[str, Any]:
    """The targets of all splits as arrays.py takes them, and the names of their classes where there are any."""
    feature = splits["train"].split.features[label]
    parts: dict[str, Any] = {}
    if kind == "classes":
        names = (feature[0] if isinstance(feature, list) else feature.feature).names
        found = {split: multi_hot(*columns.lists(label), len(names)) for split, columns in splits.items()}
        parts |= {"classes": list(names), "targets": "labels"}
    elif kind in ("class", "integers", "bools", "floats", "text", *LISTS):
        found = {split: columns.array(label) for split, columns in splits.items()}
    else:
        raise BadInputError(f"data.label_column = {label}: {wanted.dataset} has {kind} there")
    if kind in ("class", "integers", "bools"):
        values = np.unique(np.concatenate(list(found.values())))
        if values[0] < 0:
            raise BadInputError(
                f"data.label_column = {label} has {values[0]}: a number below 0 is no class, but stands for an unknown "
                "label"
            )
        if kind != "class" and len(values) > MOST_CLASSES:
            raise BadInputError(
                f"data.label_column = {label} tells {len(values):,} classes apart, and {MOST_CLASSES:,} are the most; "
                "numbers to be predicted are floats"
            )
        parts["classes"] = list(feature.names) if kind == "class" else list(map(str, values.tolist()))
        if kind != "class":
            found = {split: np.searchsorted(values, own) for split, own in found.items()}
    if kind == "text":
        found = {split: list(own) for split, own in found.items()}  # type: ignore[misc]
    return parts | {f"{split}_labels": own for split, own in found.items()}


def _splits(wanted: Wanted) -> list[tuple[str, str, Any]]:
    """ "train" and "test", each with its own name there and its data; without "test" where examples are held out."""
    found = _load(wanted)
    found = found if hasattr(found, "keys") else {"train": found}
    names = list(map(str, found))
    test = next((name for name in TESTS if name in names), None)
    if "train" not in names:
        raise BadInputError(f"{wanted.wrong} has no split train, but {', '.join(names)}")
    if not wanted.tested:
        if test:
            raise BadInputError(
                f"data.holdout_examples is for data without test examples, but {wanted.dataset} has {test}"
            )
        return [("train", "train", found["train"])]
    if test is None:
        raise BadInputError(
            f"{wanted.wrong} has no split test or validation, but {', '.join(names)}; data.holdout_examples holds out "
            "that many examples of train for it"
        )
    return [("train", "train", found["train"]), ("test", test, found[test])]


def _load(wanted: Wanted) -> Any:
    name, _, config = wanted.dataset.removeprefix(PREFIX).partition(":")
    try:
        import datasets
    except ImportError:
        raise BadInputError(
            f"{wanted.wrong} needs the library datasets, which is not installed; pip install 'fedray[hf]'"
        ) from None
    folder = _folder(name, wanted.root)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if folder and any((folder / each).is_file() for each in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder) if folder else name, config or None)
    except Exception as error:  # whatever the library and what it calls raise
        said = str(error).strip().partition("\n")[0][:300]
        hint = "" if folder else "; without a network a folder, or what datasets has in its cache, can be read"
        raise BadInputError(f"{wanted.wrong} cannot be read, {type(error).__name__}: {said}{hint}") from error


def _folder(name: str, root: Path) -> Path | None:
    """The folder that a name means: a path, or one below the data root; None for a name on the Hub."""
    path = Path(name).expanduser()
    for each in (path, root / path):
        if each.is_dir():
            return each.resolve()
    if name.startswith((".", "/", "~")):
        raise BadInputError(f"data.dataset = {PREFIX}{name}: there is no folder {path}")
    return None
