"""Small files in the layouts of the published data sets, made by the standard library, Pillow and Arrow."""

import gzip
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SHAPES = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28)}
COLUMNS = {"cifar10": ("img", "label"), "cifar100": ("img", "fine_label")}
FOLDERS = {"cifar100": "cifar-100-python", "mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}
SPLITS = {"train": slice(0, 12), "test": slice(12, 20)}


def make_examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """20 random images and labels, 12 of them to train on; other ones for each data set."""
    rng = np.random.default_rng(len(name))
    classes = 100 if name == "cifar100" else 10
    return rng.integers(0, 256, (20, *SHAPES[name]), dtype=np.uint8), rng.integers(0, classes, 20)


def encoded(image: np.ndarray, format: str = "PNG", mode: str | None = None) -> bytes:  # noqa: A002
    """An image [c, h, w] as PNG or JPEG bytes."""
    made = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    buffer = io.BytesIO()
    (made.convert(mode) if mode else made).save(buffer, format)
    return buffer.getvalue()


def write_table(path: Path, contents: list, classes: tuple[str, ...] = (), image: str = "image", **columns) -> Path:
    """One Parquet file with images and other columns; `classes` names the labels as Hugging Face does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array([{"bytes": content} for content in contents], kind), **columns})
    if classes:
        features = {name: {"names": list(classes), "_type": "ClassLabel"} for name in columns if "label" in name}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def write_published(folder: Path, name: str, classes: tuple[str, ...] = ()) -> Path:
    """A published data set of 20 images as Parquet."""
    images, labels = make_examples(name)
    image, label = COLUMNS.get(name, ("image", "label"))
    for split, rows in SPLITS.items():
        columns = {label: labels[rows]} | ({"coarse_label": labels[rows] // 5} if name == "cifar100" else {})
        contents = [encoded(each) for each in images[rows]]
        write_table(folder / f"{split}-00000-of-00001.parquet", contents, classes, image, **columns)
    return folder


def idx_bytes(array: np.ndarray) -> bytes:
    """LeCun's format, for bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_original(root: Path, name: str, zipped: bool = True) -> Path:
    """MNIST, Fashion-MNIST or CIFAR-100 as torchvision has it below `root`; returns its folder."""
    folder = root / FOLDERS[name]
    folder.mkdir(parents=True)
    images, labels = make_examples(name)
    for split, rows in SPLITS.items():
        if name == "cifar100":
            batch = {b"filenames": [b"x.png"] * len(images[rows]), b"batch_label": b"made"}
            batch |= {b"fine_labels": labels[rows].tolist(), b"coarse_labels": (labels[rows] // 5).tolist()}
            batch |= {b"data": images[rows].reshape(-1, 3072)}
            (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
            continue
        start = {"train": "train", "test": "t10k"}[split]
        files = {"images-idx3": images[rows, 0], "labels-idx1": labels[rows].astype(np.uint8)}
        for kind, array in files.items():
            path = folder / f"{start}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    return folder
