"""CIFAR-10 and CIFAR-100 as their authors publish them and torchvision unpacks them: a folder of pickles each.

A pickle is a program. The reader here knows few instructions and four names, and supplies the objects behind the names
itself. So a file from anywhere can be opened: none of its code runs, nothing larger than the file is allocated, and the
time is proportional to the file's size.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedray.core.errors import BadInputError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Batches:
    """The layout of a data set in pickles: its folder, the files of each split in order, and the key of its labels."""

    title: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    labels: bytes
    classes: int
    download: str
    """The command that downloads the data set."""
    format: ClassVar[str] = "pickle"

    @property
    def inside(self) -> tuple[str, ...]:
        """The folders of the data set within a folder of data sets."""
        return (self.folder,)

    def is_in(self, folder: Path) -> bool:
        """Whether the folder has the data set's files or its name."""
        known = [folder / names[0] for names in self.files.values()]
        return folder.is_dir() and (folder.name == self.folder or all(path.is_file() for path in known))

    def paths(self, folder: Path, split: str) -> list[Path]:
        """The files of a split ("train" or "test"), in order; BadInputError names the first that is missing."""
        found = [folder / name for name in self.files[split]]
        for path in found:
            if not path.is_file():
                raise BadInputError(
                    f"the {self.title} file {path} is missing: delete its folder and run `{self.download}` again"
                )
        return found

    def read(self, folder: Path, split: str, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` examples of a split (0: all): uint8 images [n, 3, 32, 32] and int64 labels [n]."""
        images, labels = [], []
        for path in self.paths(folder, split):
            batch = self._read_batch(path)
            images.append(batch[0])
            labels.append(batch[1])
            if 0 < count <= sum(map(len, labels)):
                break
        rows = slice(count or None)
        return np.concatenate(images)[rows], np.concatenate(labels)[rows]

    def _read_batch(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInputError(f"the {self.title} file {path} cannot be read: {error.strerror or error}") from None
        wrong = f"{path} is not a {self.title} batch"
        try:
            batch = _Reader(io.BytesIO(content), encoding="bytes").load()
        except _RefusedError as refusal:
            raise BadInputError(f"{wrong}: its pickle {refusal}; nothing of it was run") from None
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise BadInputError(f"{wrong}: its pickle is damaged ({type(error).__name__})") from error
        if not isinstance(batch, dict) or not isinstance(batch.get(b"data"), _Array) or self.labels not in batch:
            raise BadInputError(f"{wrong}: it has no array b'data' with a list {self.labels!r}")
        images = _images(wrong, batch[b"data"])
        labels = batch[self.labels]
        if not isinstance(labels, list) or len(labels) != len(images):
            raise BadInputError(f"{wrong}: it has {len(images)} images but not a list of as many labels")
        for row, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < self.classes:
                raise BadInputError(f"{path} has a label outside 0..{self.classes - 1} in row {row}")
        return images, np.array(labels, np.int64)


CIFAR10 = Batches(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    labels=b"labels",
    classes=10,
    download="make data",
)
CIFAR100 = Batches(
    title="CIFAR-100",
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    labels=b"fine_labels",
    classes=100,
    download="python -m fedray.data.download cifar100",
)


def _images(wrong: str, data: "_Array") -> np.ndarray:
    if data.kind != "u1" or data.shape[0] < 1 or data.shape[1] != PIXELS:
        described = f"{data.kind or 'nothing'} {list(data.shape)}"
        raise BadInputError(f"{wrong}: its images are {described}, not u1 [n, {PIXELS}]")
    if len(data.content) != data.shape[0] * PIXELS:
        raise BadInputError(f"{wrong}: {len(data.content)} bytes of images, not {data.shape[0]} x {PIXELS}")
    flat = np.frombuffer(data.content, np.uint8).reshape(data.shape, order="F" if data.columns_first else "C")
    return np.ascontiguousarray(flat).reshape(-1, 3, 32, 32)


class _RefusedError(Exception):
    """A pickle asks for something that no batch needs."""


class _Array:
    """A stand-in for a NumPy array while a pickle is read: its description and its bytes, not yet checked."""

    __slots__ = ("columns_first", "content", "kind", "shape")

    def __init__(self) -> None:
        self.shape, self.kind, self.columns_first, self.content = (0, 0), "", False, b""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, content = state
        if not (type(shape) is tuple and len(shape) == 2 and all(type(n) is int and 0 <= n < 2**63 for n in shape)):
            raise _RefusedError("describes an array that is not a matrix")
        if type(kind) is not _Kind or type(content) is not bytes:
            raise _RefusedError("describes an array in an unknown way")
        self.shape, self.kind, self.columns_first, self.content = shape, kind.name, columns_first is True, content


class _Kind:
    """A stand-in for a NumPy dtype: its name."""

    __slots__ = ("name",)

    def __init__(self, name: bytes | str, *_: Any) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(text, str):
            raise _RefusedError("describes an array in an unknown way")
        self.name = text[:20]

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


def _encode_latin1(text: str, encoding: str | bytes) -> bytes:
    """The bytes behind `text`, which is how Python 3 pickles bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise _RefusedError("encodes bytes in an unknown way")
    return text.encode("latin1")


INSTRUCTIONS = b"".join(
    [
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.FLOAT, pickle.BINFLOAT),
        *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4),
        *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES),
        *(pickle.BINBYTES8, pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
    ]
)
"""The instructions that a batch needs, whichever pickle protocol wrote it. Others can reserve any amount of memory, or
hash objects nested so deep that it never ends."""
FILLING = pickle.DICT + pickle.SETITEM + pickle.SETITEMS


def _keyed_by_words(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """An instruction that fills a dictionary, restricted to keys that are quick to hash: text, bytes and numbers."""

    def load_words(self: "_Reader") -> None:
        keys = self.stack[-2:-1] if code == pickle.SETITEM[0] else self.stack[::2]
        if not all(isinstance(key, bytes | str | int | float) for key in keys):
            raise _RefusedError("has a key that is neither text nor number")
        load(self)

    return load_words


class _Reader(pickle._Unpickler):
    """The unpickler in Python, whose memo is a dictionary; the one in C reserves memory for any memo number in a file.

    It is fast enough, because nearly all of a batch is a single string of bytes.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: _keyed_by_words(code, load) if code in FILLING else load
        for code, load in pickle._Unpickler.dispatch.items()
        if code in INSTRUCTIONS
    }

    def find_class(self, module: str, name: str) -> Any:
        # Each request gets a new function, because a hostile file may write attributes on what it is given.
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *_: _Array()
            case "numpy", "dtype":
                return lambda *words: _Kind(*words)
            case "numpy", "ndarray":
                return None  # only _reconstruct gets it
            case "_codecs", "encode":
                return lambda *words: _encode_latin1(*words)
        raise _RefusedError(f"asks for {f'{module}.{name}'[:80]!r}")
