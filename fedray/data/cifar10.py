"""CIFAR-10 on disk: where it lies and in which of its two layouts.

Krizhevsky 2009, "Learning multiple layers of features from tiny images": 50,000 + 10,000 colour images of 32 x 32
pixels in ten classes.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fedray.data import batches, cache, parquet
from fedray.errors import BadInputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)  # of the training images, per channel
STD = (0.2470, 0.2435, 0.2616)


def locate(root: Path) -> Path | None:
    """The folder with the files: `root`, its `cifar-10-batches-py`, or a folder in it with Parquet files; else None.

    Parquet files are searched one level down and must have CIFAR-10's columns; folders named after CIFAR-10 or
    `plain_text` go before others, then the alphabet decides.
    """
    if _holds_batches(root):
        return root
    if _holds_batches(root / batches.FOLDER):
        return root / batches.FOLDER
    if any(root.glob("train-*.parquet")):
        return root
    inner = sorted({path.parent for path in root.glob("*/train-*.parquet")}, key=_preference)
    for folder in inner:
        if parquet.has_columns(min(folder.glob("train-*.parquet"))):
            return folder
    return None


def fingerprint(folder: Path) -> str:
    """A hash of every byte that `read` could read there: 32 hex digits. Nothing is decoded."""
    digest = hashlib.blake2b(digest_size=16)
    layout = batches if _holds_batches(folder) else parquet
    files = [(split, path) for split in ("train", "test") for path in layout.paths(folder, split)]
    with ThreadPoolExecutor() as pool:
        for (split, _), content in zip(files, pool.map(_hash, [path for _, path in files]), strict=True):
            digest.update(split.encode() + content)
    return digest.hexdigest()


def read(folder: Path, split: str, count: int = 0, identity: str = "") -> tuple[np.ndarray, np.ndarray, str]:
    """The first `count` examples of a split (0: all): uint8 images [n, 3, 32, 32], int64 labels [n], and the format.

    With the folder's fingerprint as `identity`, images that are decoded come from the cache where it has them, and a
    whole split goes there.
    """
    if _holds_batches(folder):
        # Not cached: unpickling all takes 0.24 s, and the pickles' bytes must be hashed, so read, all the same.
        return *batches.read(folder, split, count), "pickle"
    kept = cache.place(identity, split) if identity else None
    found = cache.read(kept) if kept else None
    if found is None:
        found = parquet.read(folder, split, count)
        # What was decoded must be what was hashed, even where somebody replaced the files in the meantime.
        if kept and not count and fingerprint(folder) == identity:
            cache.write(kept, *found)
    images, labels, encoding = found
    return images[: count or None], labels[: count or None], encoding


def _hash(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        raise BadInputError(f"the data file {path} cannot be read: {error.strerror or error}") from None


def _holds_batches(folder: Path) -> bool:
    return folder.is_dir() and (folder.name == batches.FOLDER or (folder / batches.FILES["train"][0]).is_file())


def _preference(folder: Path) -> tuple[bool, str]:
    name = folder.name.lower()
    return not (name == "plain_text" or name.replace("-", "").startswith("cifar10")), name
