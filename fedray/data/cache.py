"""The cache of decoded splits on disk. Images are decoded once and mapped into memory from then on.

The cache is in the folder FEDRAY_CACHE, else `$XDG_CACHE_HOME/fedray`, else `~/.cache/fedray`. FEDRAY_CACHE=off turns
it off. A split is one file: a page of JSON, the labels, the images. Its name is a hash of all that it depends on. A
file that cannot be read, is not whole or has changed counts as missing, and the split is decoded again.
"""

import hashlib
import json
import mmap
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fedray.core.atomic import replacing
from fedray.core.errors import BadInputError

LAYOUT = 3  # raise it when the layout of a file changes, or the pixels decoded from the same bytes
KEPT = 8
"""The number of splits that stay, the last used ones; all of CIFAR-10 is two, 184 MB together."""
LARGEST = 2_000_000_000
"""The size in bytes above which a split is not kept, but decoded each time, to spare the user's disk."""
HEADER = 4096
LABEL = 8  # bytes
OWN_NAME = re.compile(r"(train|test)-[0-9a-f]{32}\.split")
UNFINISHED_NAME = re.compile(rf"\.{OWN_NAME.pattern}\.tmp-.*")
ABANDONED_SECONDS = 3600  # no writer takes this long

Split = tuple[np.ndarray, np.ndarray, str]
"""uint8 images [n, c, h, w], int64 labels [n], and the format they were stored in."""


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of the content of files, given as (split, path): 32 hex digits, the same in every folder."""
    named, digest = list(files), hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor() as pool:
        for (split, _), content in zip(named, pool.map(_hash, [path for _, path in named]), strict=True):
            digest.update(split.encode() + content)
    return digest.hexdigest()


def _hash(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        raise BadInputError(f"the data file {path} cannot be read: {error.strerror or error}") from None


def decoded_once(path: Path | None, count: int, decode: Callable[[], Split], is_as_hashed: Callable[[], bool]) -> Split:
    """The first `count` examples (0: all), from the cache file `path` or else from `decode`.

    A whole split that had to be decoded is kept, unless it is large or its files have changed since they were hashed.
    """
    found = read(path) if path else None
    if found is None:
        found = decode()
        # The bytes decoded must be the bytes hashed, even where somebody replaced the files in between.
        if path and not count and found[0].nbytes <= LARGEST and is_as_hashed():
            write(path, *found)
    images, labels, encoding = found
    return images[: count or None], labels[: count or None], encoding


def place(fingerprint: str, split: str, *how: str | int | None) -> Path | None:
    """The file for a split of the data with this fingerprint, decoded as `how` says; None where the cache is off."""
    folder = _folder()
    # The decoder's version is part of the name, because versions may differ in the last bit of a JPEG.
    known = json.dumps([LAYOUT, version("pillow"), split, fingerprint, *how]).encode()
    return folder and folder / f"{split}-{hashlib.blake2b(known, digest_size=16).hexdigest()}.split"


_KEEPS = ContextVar("keeps", default=True)


@contextmanager
def nothing_kept() -> Iterator[None]:
    """For the length of a `with`, read the cache and write nothing to it."""
    token = _KEEPS.set(False)
    try:
        yield
    finally:
        _KEEPS.reset(token)


def read(path: Path) -> Split | None:
    """A split that `write` kept; None where it is missing or not whole. Changes to its arrays stay in this process."""
    try:
        if not path.is_file():  # a pipe would never end
            return None
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        header = json.loads(content[:HEADER])
        n, encoding, shape = int(header["examples"]), str(header["format"]), tuple(map(int, header["shape"]))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):  # an empty file, or other JSON
        return None
    pixels = prod(shape)
    if n < 1 or len(shape) != 3 or min(shape) < 1 or len(content) != HEADER + n * (pixels + LABEL):
        return None
    with suppress(OSError):
        os.utime(path)  # marks the file as used
    labels = np.frombuffer(content, np.int64, n, HEADER)
    images = np.frombuffer(content, np.uint8, n * pixels, HEADER + n * LABEL).reshape(n, *shape)
    return (images, labels, encoding) if header == _header(path, images, labels, encoding) else None


def write(path: Path, images: np.ndarray, labels: np.ndarray, encoding: str) -> None:
    """Keep a split for the next start, and remove the splits unused for longest. An OSError is ignored."""
    if not _KEEPS.get():
        return
    header = _header(path, images, labels, encoding)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent, KEPT - 1)
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(json.dumps(header).encode().ljust(HEADER))
            file.write(labels.data)
            file.write(images.data)


def _header(path: Path, images: np.ndarray, labels: np.ndarray, encoding: str) -> dict[str, Any]:
    """The first page of a file, with a checksum of itself and of the arrays, which takes 0.03 to 0.2 s for 180 MB."""
    head = {"name": path.name, "format": encoding, "examples": len(labels), "shape": list(images.shape[1:])}
    checksum = zlib.crc32(images.data, zlib.crc32(labels.data, zlib.crc32(json.dumps(head).encode())))
    return {**head, "crc32": checksum}


def _folder() -> Path | None:
    named, home = os.environ.get("FEDRAY_CACHE", ""), os.environ.get("XDG_CACHE_HOME", "")
    if named == "off":
        return None
    with suppress(RuntimeError):  # there is no home
        if named:
            return Path(named).expanduser()
        return (Path(home) if Path(home).is_absolute() else Path("~/.cache").expanduser()) / "fedray"
    return None


def _tidy(folder: Path, keep: int) -> None:
    """Remove all but the `keep` splits used last, and files of killed writers. Other programs' files stay."""
    used = {path: path.stat().st_mtime for path in folder.iterdir() if _is_own(path)}
    entries = sorted((path for path in used if OWN_NAME.fullmatch(path.name)), key=lambda path: -used[path])
    abandoned = [path for path in used.keys() - set(entries) if used[path] < time.time() - ABANDONED_SECONDS]
    for path in (*entries[keep:], *abandoned):
        path.unlink(missing_ok=True)


def _is_own(path: Path) -> bool:
    return bool(OWN_NAME.fullmatch(path.name) or UNFINISHED_NAME.fullmatch(path.name)) and path.is_file()
