"""Columns of Parquet files in the layouts of Hugging Face, with images as PNG or JPEG.

The files of a split are `train*.parquet` or, where Hugging Face converted them, numbered: `train/0000.parquet`. The
caller names the columns and the kind of their values. Decoded rows must fit into memory. That is checked before
decoding, because a small file can claim very many rows.
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.limits import available_memory, cores
from fedray.data.decode import Form, decode, encoding_of, is_colour

IMAGES, VALUES = 250, 50_000  # rows read together, of images and of other columns
MOST_WORKERS = 4  # threads that decode images


def holds_parquet(folder: Path) -> bool:
    """Whether a folder has Parquet files of a training split."""
    return bool(find_files(folder, "train"))


def find_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, sorted: files whose names begin with it, and numbered files in folders that do."""
    return sorted([*folder.glob(f"{split}*.parquet"), *folder.glob(f"{split}*/[0-9]*.parquet")])


def paths(folder: Path, split: str, title: str) -> list[Path]:
    """The files of a split, sorted; BadInputError where any is missing. `split` is what their names begin with."""
    found = find_files(folder, split)
    if not found:
        raise BadInputError(f"{folder} has no {split}*.parquet: both splits of {title} are needed")
    if odd := next((path for path in found if not path.is_file()), None):
        raise BadInputError(f"{odd} is not a file: a folder, or a pipe, cannot be read as Parquet")
    promised = re.search(r"-of-(\d{1,9})(-\w+)?\.parquet$", found[0].name)
    if promised and len(found) != int(promised[1]):
        raise BadInputError(f"{folder} has {len(found)} of the {int(promised[1])} files that {found[0].name} announces")
    return found


def read_types(path: Path) -> dict[str, Any]:
    """The Arrow types of a file's columns, by name."""
    import pyarrow.parquet as pq

    with _reading(path):
        return {field.name: field.type for field in pq.read_schema(path)}


def content_type(kind: Any) -> Any:
    """The Arrow type of encoded images in a column of type `kind`: bytes, or a struct with `bytes`. Otherwise None."""
    import pyarrow as pa

    if kind is None:
        return None
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {"bytes": kind}
    content = fields.get("bytes", pa.null())
    return content if pa.types.is_binary(content) or pa.types.is_large_binary(content) else None


def value_kind(kind: Any) -> str:
    """The kind of the values in a column of this Arrow type: "integers", "text", or "" for others."""
    import pyarrow as pa

    kind = pa.null() if kind is None else kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(kind):
        return "integers"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names of a column's labels that Hugging Face keeps beside the schema (ClassLabel); empty without them."""
    import pyarrow.parquet as pq

    with _reading(path):
        metadata = pq.read_schema(path).metadata or {}
    try:
        names = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def find_kind(files: Iterable[Path], column: str) -> str:
    """The kind of a column's values in all of these files, "integers" or "text"; BadInputError where files differ."""
    kinds = {value_kind(read_types(path).get(column)): path for path in files}
    if len(kinds) > 1 or "" in kinds:
        each = " and ".join(f"{kind or 'neither'} in {path}" for kind, path in kinds.items())
        raise BadInputError(f"the column {column} must hold integers or text in all files, but holds {each}")
    return next(iter(kinds))


def read_labels(files: Sequence[Path], column: str, classes: int, count: int = 0) -> np.ndarray:
    """The first `count` integers of a column (0: all), int64 [n]; BadInputError where one is not below `classes`."""
    found, left = [np.empty(0, np.int64)], count or count_rows(files, 8)
    for path in files:
        row = 0
        for part in _column(path, column, VALUES):
            values = part.to_numpy(zero_copy_only=False)[:left]
            wrong = np.flatnonzero((values < 0) | (values >= classes))
            if len(wrong):
                raise BadInputError(
                    f"{path} has the {column} {values[wrong[0]]} in row {row + wrong[0]}, outside 0..{classes - 1}"
                )
            found.append(values.astype(np.int64))
            row, left = row + len(values), left - len(values)
            if not left:
                return np.concatenate(found)
    return np.concatenate(found)


def encode(splits: Sequence[Sequence[Path]], column: str) -> tuple[list[np.ndarray], list[Any]]:
    """A column of integers or text as codes: int64 [n] for each split, and the values that they stand for, sorted.

    All files must hold the same kind of values (`find_kind`).
    """
    seen: dict[Any, int] = {}
    found = []
    for files in splits:
        count_rows(files, 16)
        parts = [np.empty(0, np.int64)]
        for part in (part for path in files for part in _column(path, column, VALUES)):
            values, codes = _distinct(part)
            parts.append(np.array([seen.setdefault(value, len(seen)) for value in values], np.int64)[codes])
        found.append(np.concatenate(parts))
    names = sorted(seen)
    rank = np.empty(len(names), np.int64)
    rank[[seen[name] for name in names]] = np.arange(len(names))
    return [rank[codes] for codes in found], names


def first_image(files: Sequence[Path], column: str) -> tuple[str, bytes]:
    """The first encoded image, after the beginning of a sentence about it."""
    for path in files:
        for contents in _contents(path, column, 1):
            return _where(path, 0), contents[0]
    raise BadInputError(f"{files[0].parent} has no training examples")


def any_colour(files: Iterable[Path], column: str) -> bool:
    """Whether any image is in colour, by its header."""
    return any(map(is_colour, chain.from_iterable(part for path in files for part in _contents(path, column, IMAGES))))


def read_images(files: Sequence[Path], column: str, form: Form, count: int = 0) -> tuple[np.ndarray, str]:
    """The first `count` images of a split (0: all), uint8 [n, c, h, w], and the encoding of the first."""
    present = count_rows(files, prod(form.shape), count)
    images = np.empty((present, *form.shape), np.uint8)
    encoding, at = "", 0
    decoding: deque[Future[None]] = deque()
    workers = min(MOST_WORKERS, cores())
    with ThreadPoolExecutor(workers) as pool:
        for path in files:
            row = 0
            for contents in _contents(path, column, IMAGES):
                taken = contents[: present - at]
                if not taken:
                    break
                encoding = encoding or encoding_of(_where(path, 0), taken[0])
                decoding.append(pool.submit(_decode_into, images[at : at + len(taken)], path, row, taken, form))
                row, at = row + len(taken), at + len(taken)
                if len(decoding) > 2 * workers:  # few encoded images wait in memory
                    decoding.popleft().result()
        for each in decoding:
            each.result()
    if not present:
        raise BadInputError(f"{files[0]} and the other files of its split have no images")
    if at < present:
        raise BadInputError(f"{files[0]} and the other files of its split have {at} images, not {present}")
    return images, encoding


def count_rows(files: Sequence[Path], size: int, count: int = 0) -> int:
    """The number of rows that files claim, at most `count` (0: all); BadInputError where they do not fit into memory.

    `size` is the memory of a row, in bytes.
    """
    import pyarrow.parquet as pq

    present = 0
    for path in files:
        with _reading(path):
            present += max(0, pq.read_metadata(path).num_rows)
    rows = min(present, count or present)
    free = available_memory()
    if rows * size > free:
        raise BadInputError(
            f"the {rows:,} rows of {files[0]} and the other files of its split need {rows * size / 1e9:.3g} GB of "
            f"memory, and {free / 1e9:.3g} GB are free: use fewer with data.{_split(files[0])}_examples, or a smaller "
            "data.image_size"
        )
    return rows


def _split(path: Path) -> str:
    named = path.parent if path.name[0].isdigit() else path
    return "train" if named.name.startswith("train") else "test"


def _where(path: Path, row: int) -> str:
    return f"{path} has an image in row {row} that"


def _decode_into(images: np.ndarray, path: Path, start: int, contents: list[bytes], form: Form) -> None:
    for i, content in enumerate(contents):
        images[i] = decode(_where(path, start + i), content, form)


def _contents(path: Path, column: str, rows: int) -> Iterator[list[bytes]]:
    """Encoded images of consecutive rows."""
    for part in _column(path, column, rows, images=True):
        yield part.to_pylist()


def _distinct(part: Any) -> tuple[list[Any], np.ndarray]:
    """The distinct values of an Arrow array, and the index of each row's value among them."""
    if hasattr(part, "dictionary"):
        used, codes = np.unique(part.indices.to_numpy(zero_copy_only=False), return_inverse=True)
        return [part.dictionary[int(i)].as_py() for i in used], codes
    used, codes = np.unique(part.to_numpy(zero_copy_only=False), return_inverse=True)
    return used.tolist(), codes


def _column(path: Path, name: str, rows: int, images: bool = False) -> Iterator[Any]:
    """A column in Arrow arrays of up to `rows` rows, without nulls: encoded images, integers, or text.

    Text stays encoded as a dictionary, so that a long text that is repeated is in memory once.
    """
    import pyarrow.parquet as pq

    kind = read_types(path).get(name)
    if not (content_type(kind) if images else value_kind(kind)):
        needed = "encoded images" if images else "integers or text"
        raise BadInputError(f"{path} has no column {name} of {needed}, but {', '.join(read_types(path)) or 'none'}")
    nested = images and content_type(kind) != kind
    text = [name] if not images and value_kind(kind) == "text" else []
    row = 0
    with _reading(path), pq.ParquetFile(path, read_dictionary=text) as file:
        for batch in file.iter_batches(rows, columns=[f"{name}.bytes" if nested else name]):
            part = batch.column(name)
            if hasattr(part, "dictionary") and not text:  # integers that pandas wrote as categories
                part = part.dictionary_decode()
            if part.null_count or (nested and part.field("bytes").null_count):
                raise BadInputError(f"{path} has a row without {name} among rows {row} to {row + len(part) - 1}")
            if len(part):
                yield part.field("bytes") if nested else part
            row += len(part)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of Arrow into a BadInputError of one sentence."""
    import pyarrow as pa

    try:
        yield
    except BadInputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # column names may be no text, or repeated
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadInputError(f"{path} cannot be read as Parquet: {reason}") from error
