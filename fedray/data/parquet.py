"""CIFAR-10 on Hugging Face: `train-*.parquet`, `test-*.parquet` with `img` (struct of bytes and path) and `label`."""

import io
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fedray.errors import BadInputError

SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
BATCH = 1000


def paths(folder: Path, split: str) -> list[Path]:
    """The files of a split ("train" or "test") sorted by name; BadInputError where one is missing or all are."""
    found = sorted(folder.glob(f"{split}-*.parquet"))
    if not found:
        raise BadInputError(f"{folder} has no {split}-*.parquet: both splits of CIFAR-10 are needed")
    if odd := next((path for path in found if not path.is_file()), None):
        raise BadInputError(f"{odd} is not a file: a folder, or a pipe, cannot be read as Parquet")
    promised = re.search(r"-of-(\d+)\.parquet$", found[0].name)
    if promised and len(found) != int(promised[1]):
        raise BadInputError(f"{folder} has {len(found)} of the {int(promised[1])} files that {found[0].name} speaks of")
    return found


def has_columns(path: Path) -> bool:
    """Whether a Parquet file has the columns of CIFAR-10; True also for a damaged file, whose reading will say so."""
    import pyarrow
    import pyarrow.parquet

    try:
        return not path.is_file() or {"img", "label"} <= set(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError, ValueError):
        return True


def read(folder: Path, split: str, count: int = 0) -> tuple[np.ndarray, np.ndarray, str]:
    """The first `count` examples of a split (0: all): uint8 images [n, 3, 32, 32], int64 labels [n], the encoding."""
    parts: list[Future[np.ndarray]] = []
    labels: list[np.ndarray] = []
    encoding, left = "", count or sys.maxsize
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for path in paths(folder, split):
            start = 0
            for contents, batch_labels in _batches(path):
                encoding = encoding or _encoding(path, contents[0])
                parts.append(pool.submit(_decode, path, start, contents[:left]))
                labels.append(batch_labels[:left])
                start += len(contents)
                left -= len(labels[-1])
                if not left:
                    break
            if not left:
                break
    if not parts:
        raise BadInputError(f"{folder} has no {split} examples")
    images = np.concatenate([part.result() for part in parts])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.concatenate(labels), encoding


def _batches(path: Path) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Encoded images and their labels, 1,000 rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            for batch in file.iter_batches(BATCH, columns=["img.bytes", "label"]):
                contents = batch.column("img").field("bytes").to_pylist()
                labels = batch.column("label")
                if None in contents or labels.null_count:
                    raise BadInputError(
                        f"{path} has a row without image or label among rows {row} to {row + len(contents) - 1}"
                    )
                values = labels.to_numpy(zero_copy_only=False)
                wrong = np.flatnonzero((values < 0) | (values > 9))
                if len(wrong):
                    raise BadInputError(
                        f"{path} has the label {values[wrong[0]]} in row {row + wrong[0]}, outside 0..9"
                    )
                if contents:
                    yield contents, values.astype(np.int64)
                row += len(contents)
    except BadInputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # names that are no text, or there twice
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadInputError(f"{path} cannot be read as Parquet: {reason}") from error


def _check_columns(path: Path, schema: Any) -> None:
    import pyarrow as pa

    kinds = {field.name: field.type for field in schema}
    image, label = kinds.get("img"), kinds.get("label")
    struct = {field.name: field.type for field in image} if image and pa.types.is_struct(image) else {}
    content = struct.get("bytes", pa.null())
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)) or not pa.types.is_integer(
        label or pa.null()
    ):
        raise BadInputError(
            f"{path} is not CIFAR-10: it needs the columns img (a struct with binary bytes) and label (an integer), "
            f"and has {', '.join(kinds) or 'none'}"
        )


def _encoding(path: Path, content: bytes) -> str:
    for signature, name in SIGNATURES.items():
        if content.startswith(signature):
            return name
    raise BadInputError(f"{path} has an image in row 0 that is neither PNG nor JPEG")


def _decode(path: Path, start: int, contents: list[bytes]) -> np.ndarray:
    """Images of consecutive rows from `start`: uint8 [n, 32, 32, 3]."""
    from PIL import Image

    images = np.empty((len(contents), 32, 32, 3), np.uint8)
    for i, content in enumerate(contents):
        where = f"{path} has an image in row {start + i} that"
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                size, mode = image.size, image.mode
                if size == (32, 32) and mode == "RGB":  # before a pixel is decoded: a small file may hold a huge image
                    images[i] = np.frombuffer(image.tobytes(), np.uint8).reshape(32, 32, 3)
        except Exception as error:  # Pillow's decoders raise half a dozen unrelated types on damaged bytes
            raise BadInputError(f"{where} cannot be decoded ({type(error).__name__})") from error
        if size != (32, 32) or mode != "RGB":
            raise BadInputError(f"{where} is {mode} {size[0]} x {size[1]}, not RGB 32 x 32")
    return images
