"""Small CIFAR-10 folders in the real layouts, made by the standard library and Pillow, not by fedray."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


@pytest.fixture
def examples() -> tuple[np.ndarray, np.ndarray]:
    """60 random images uint8 [60, 3, 32, 32] and labels: 50 to train on, 10 to test on."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, 60)


@pytest.fixture
def write_batches(examples) -> Callable[[Path], Path]:
    """Writes cifar-10-batches-py into a folder, ten images a file."""

    def write(root: Path) -> Path:
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        images, labels = examples
        for i, name in enumerate(BATCHES):
            rows = slice(10 * i, 10 * i + 10)
            batch = {b"batch_label": b"made", b"labels": labels[rows].tolist(), b"data": images[rows].reshape(10, 3072)}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        return folder

    return write


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """One image [3, 32, 32] as PNG or JPEG bytes."""

    def image_bytes(image: np.ndarray, format: str = "PNG", size=(32, 32), mode: str = "RGB") -> bytes:  # noqa: A002
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).resize(size).convert(mode).save(buffer, format)
        return buffer.getvalue()

    return image_bytes


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """Writes one Parquet file with the columns of the public data set."""

    def write(path: Path, contents: list, labels: list, column: str = "img") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": content, "path": None} for content in contents]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({column: pa.array(images, kind), "label": pa.array(labels, pa.int64())}), path)
        return path

    return write


@pytest.fixture
def write_shards(examples, encode, write_parquet) -> Callable[..., Path]:
    """Writes the 60 examples as Parquet, the training ones in two files."""

    def write(folder: Path, format: str = "PNG") -> Path:  # noqa: A002
        images, labels = examples
        cuts = {"train-00000-of-00002": (0, 30), "train-00001-of-00002": (30, 50), "test-00000-of-00001": (50, 60)}
        for name, (start, stop) in cuts.items():
            contents = [encode(image, format) for image in images[start:stop]]
            write_parquet(folder / f"{name}.parquet", contents, labels[start:stop].tolist())
        return folder

    return write
