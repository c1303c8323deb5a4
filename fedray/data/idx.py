"""MNIST and Fashion-MNIST as their authors publish them and torchvision keeps them: four files, gzipped or not.

The format is LeCun's idx: a magic number, the sizes as four bytes each, then the bytes themselves. Files are read and
inflated only up to the largest size that the data set can have.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedray.core.errors import BadInputError

SIDE = 28
IMAGES, LABELS = 0x0803, 0x0801  # unsigned bytes in three dimensions, and in one
PREFIX = {"train": "train", "test": "t10k"}
MOST = 60_000  # examples of a split


@dataclass(frozen=True)
class Idx:
    """The layout of a data set in idx files."""

    title: str
    folder: str
    """The folder that torchvision makes, with the files in `raw`."""
    classes: int
    download: str
    """The command that downloads the data set."""
    format: ClassVar[str] = "idx"

    @property
    def inside(self) -> tuple[str, ...]:
        """The folders of the data set within a folder of data sets."""
        return f"{self.folder}/raw", self.folder, "raw"

    def is_in(self, folder: Path) -> bool:
        """Whether the folder has the data set's files or its name."""
        named = folder.name == "raw" and folder.parent.name == self.folder and folder.is_dir()
        return named or _find(folder, "train-images-idx3-ubyte") is not None

    def paths(self, folder: Path, split: str) -> list[Path]:
        """The files of a split's images and labels; BadInputError where one is missing."""
        found = []
        for name in (f"{PREFIX[split]}-images-idx3-ubyte", f"{PREFIX[split]}-labels-idx1-ubyte"):
            path = _find(folder, name)
            if path is None:
                raise BadInputError(
                    f"the {self.title} file {folder / name}.gz is missing: delete its folder and run `{self.download}`"
                )
            found.append(path)
        return found

    def read(self, folder: Path, split: str, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` examples of a split (0: all): uint8 images [n, 1, 28, 28] and int64 labels [n]."""
        images_path, labels_path = self.paths(folder, split)
        images = self._read(images_path, IMAGES, (SIDE, SIDE)).reshape(-1, 1, SIDE, SIDE)
        labels = self._read(labels_path, LABELS, ())
        if len(images) != len(labels):
            raise BadInputError(f"{images_path} has {len(images)} images, but {labels_path} {len(labels)} labels")
        if (wrong := np.flatnonzero(labels >= self.classes)).size:
            raise BadInputError(f"{labels_path} has a label outside 0..{self.classes - 1} in row {wrong[0]}")
        return images[: count or None], labels[: count or None].astype(np.int64)

    def _read(self, path: Path, magic: int, shape: tuple[int, ...]) -> np.ndarray:
        """The bytes of a file: uint8 [n, *shape]."""
        wrong, each, start = f"{path} is not a {self.title} file", int(np.prod(shape)), 8 + 4 * len(shape)
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                words = file.read(start)
                head = [int.from_bytes(words[at : at + 4]) for at in range(0, start, 4)]
                if len(words) != start or head[0] != magic or tuple(head[2:]) != shape:
                    expected = " x ".join(map(str, ("n", *shape)))
                    raise BadInputError(f"{wrong}: it does not begin with the idx header of bytes {expected}")
                if not 1 <= head[1] <= MOST:
                    raise BadInputError(f"{wrong}: its header says {head[1]:,} examples, not 1 to {MOST:,}")
                content = file.read(head[1] * each + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInputError(f"{path} cannot be read: {error}") from None
        if len(content) != head[1] * each:
            more = "more" if len(content) > head[1] * each else "fewer"
            raise BadInputError(f"{wrong}: it has {more} bytes than the {head[1]:,} examples of its header take")
        return np.frombuffer(content, np.uint8).reshape(-1, *shape).copy()


MNIST = Idx(title="MNIST", folder="MNIST", classes=10, download="python -m fedray.data.download mnist")
FASHION_MNIST = Idx(
    title="Fashion-MNIST", folder="FashionMNIST", classes=10, download="python -m fedray.data.download fashion_mnist"
)


def _find(folder: Path, name: str) -> Path | None:
    """The gzipped file, or else the plain one. A plain copy beside the gzipped file does not change the fingerprint."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
