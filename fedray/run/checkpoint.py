"""A checkpoint: one safetensors file with named arrays, the clients' memories, and JSON in its header. No pickle, so
nothing in it can run.

Memories are written and read one client at a time, since all together may not fit in memory. The header also holds a
BLAKE2b digest of everything else in the file. A damaged file is refused and never half loaded.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedray.core.atomic import remove_stale, replacing
from fedray.core.errors import BadInputError, DamagedError
from fedray.core.updates import SAVED_TYPES, Vectors

TYPES = {name: type_ for type_, name in SAVED_TYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes, of the safetensors library
WIDEST = 2**63 - 1  # no client and no offset has more digits
MEMORY = "memory/"  # begins the names of what clients remember

# A file starts with the length of the header in 8 bytes, and our header with the digest, so that its place is known.
BEGINNING = '{"__metadata__":{"blake2b":"'
UNKNOWN = "0" * 32
DIGEST = slice(8 + len(BEGINNING), 8 + len(BEGINNING) + len(UNKNOWN))
blake2b = partial(hashlib.blake2b, digest_size=len(UNKNOWN) // 2)
compact = partial(json.dumps, separators=(",", ":"))


def save(
    path: str | Path,
    arrays: Vectors,
    meta: dict[str, Any],
    memories: Iterable[tuple[int, Vectors]] = (),
    at_most: int = 0,
    keep: Path | None = None,
) -> str:
    """Write arrays of any shape, and meta that JSON can hold, in place of `path`: durable once this returns.

    Returns the file's digest, as `digest_of` reads it. A kill at any moment leaves the old file or the new one. `keep`
    is the path at which the old file is kept. A kill may leave it there alone. Tuples in `meta` come back as lists.
    `memories` are those of at most `at_most` clients. Each is released before the next is taken. All have the same
    names, shapes and types. ValueError names a client whose memory differs, or an array of a type that safetensors
    lacks.
    """
    if any(name.startswith(MEMORY) for name in arrays):
        raise ValueError(f"names that begin with {MEMORY!r} are for what clients remember")
    return _write(Path(path), arrays, {"meta": json.dumps(meta)}, memories, at_most, keep)


def load(path: str | Path) -> tuple[Vectors, dict[str, Any], Iterator[tuple[int, Vectors]]]:
    """Read back what `save` wrote, bit for bit: arrays, meta, and the memories, each read when it is asked for.

    BadInputError for a file that is missing or may not be read, DamagedError for one that is damaged or no checkpoint,
    both before anything is returned. The file stays open until the memories are read or released, so they are its own
    even if it is replaced meanwhile.
    """
    reading = _read(Path(path))
    try:
        arrays, meta = next(reading)
    except FileNotFoundError:
        raise BadInputError(f"there is no checkpoint {path}") from None
    except PermissionError as error:
        raise BadInputError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    except OSError as error:
        raise DamagedError(f"the checkpoint {path} is damaged: {error.strerror or error}") from None
    return arrays, meta, reading


def digest_of(path: Path) -> str:
    """The digest that a file says it has; any text of a file that is no checkpoint."""
    with path.open("rb") as file:
        return file.read(DIGEST.stop)[DIGEST].decode(errors="replace")


def save_model(path: str | Path, tensors_by_name: Vectors, meta: dict[str, str]) -> None:
    """Write a model as plain safetensors, for `safetensors.torch.load_file` or any other reader of the format."""
    _write(Path(path), tensors_by_name, {"format": "pt", **meta})


def load_model(path: Path) -> tuple[Vectors, dict[str, str]]:
    """Read back what `save_model` wrote: tensors by name, and meta. DamagedError for any other file."""
    try:
        with path.open("rb") as file:
            header, begin = _verified(file, path)
            meta = {str(name): str(value) for name, value in header.pop("__metadata__").items()}
            for entry in header.values():
                _check(entry, os.fstat(file.fileno()).st_size - begin)
            return _arrays(file, begin, header), meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"the model {path} cannot be read: {error}") from None


def _write(
    path: Path,
    arrays: Vectors,
    metadata: dict[str, str],
    memories: Iterable[tuple[int, Vectors]] = (),
    at_most: int = 0,
    keep: Path | None = None,
) -> str:
    """Stream a safetensors file: the header's length, the header as JSON, the arrays' bytes, those of the memories.

    The library's own writer wants all arrays at once, and a kill would leave its temporary file behind. The header is
    known last, so room is reserved for it and padded with spaces.
    """
    nobody: tuple[int, Vectors] = (-1, {})
    remaining = iter(memories)
    client, memory = next(remaining, nobody)
    layout = _layout(memory)
    opening = '{"__metadata__":' + compact({"blake2b": UNKNOWN, **metadata})
    room = len(opening) + _room(arrays) + at_most * _room(memory, f"{MEMORY}{client}/") + len("}")
    room += -room % 8
    if room > LARGEST_HEADER:
        raise ValueError(f"the memories of {at_most} clients are too many for one safetensors file")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    with replacing(path, keep) as temporary, temporary.open("wb") as file:
        file.seek(8 + room)
        body = _Body(file)
        body.write(arrays)
        while client >= 0:
            if _layout(memory) != layout:
                raise ValueError(f"client {client} remembers {_layout(memory)}, clients before it {layout}")
            body.write(memory, f"{MEMORY}{client}/")
            del memory  # before the next one comes
            client, memory = next(remaining, nobody)
        header = ",".join([opening, *body.entries]) + "}"
        if len(header) > room:
            raise ValueError(f"more clients remember something than {at_most}")
        head = bytearray(room.to_bytes(8, "little") + header.ljust(room).encode())
        body.digest.update(head)
        head[DIGEST] = body.digest.hexdigest().encode()
        file.seek(0)
        file.write(head)
        return body.digest.hexdigest()


class _Body:
    """The body of the file: arrays one after another, their header entries, and the digest so far."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest = file, blake2b()
        self.entries: list[str] = []  # as JSON, which takes less memory
        self.size = 0

    def write(self, arrays: Vectors, prefix: str = "") -> None:
        for name, array in _in_order(arrays):
            self.entries.append(_entry(prefix + name, array, self.size))
            self.size += array.nbytes
            data = np.asarray(array, order="C").reshape(-1).view(np.uint8).data  # copied only where not in C order
            self.digest.update(data)
            self.file.write(data)


def _in_order(arrays: Vectors) -> list[tuple[str, np.ndarray]]:
    """Arrays in the order of the file. Wide types come first, so each array is aligned to its type."""
    return sorted(sorted(arrays.items()), key=lambda item: -item[1].itemsize)


def _entry(name: str, array: np.ndarray, begin: int) -> str:
    """The header's entry for an array that is written in C order from byte `begin`."""
    if array.dtype.str not in SAVED_TYPES:
        raise ValueError(f"array {name!r} of type {array.dtype} cannot be saved")
    offsets = (begin, begin + array.nbytes)
    entry = {"dtype": SAVED_TYPES[array.dtype.str], "shape": array.shape, "data_offsets": offsets}
    return f"{compact(name)}:{compact(entry)}"


def _room(arrays: Vectors, prefix: str = "") -> int:
    """The most bytes that the header takes for such arrays, at any offset and for any client."""
    return sum(len(_entry(prefix + name, array, WIDEST)) + len(f",{WIDEST}") for name, array in arrays.items())


def _layout(arrays: Vectors) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(array.dtype), array.shape) for name, array in sorted(arrays.items())}


def _read(path: Path) -> Iterator[Any]:
    """Read one verified, open file: first its arrays and its meta, then its memories client by client."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise DamagedError(f"the checkpoint {path} is not a file")
    with path.open("rb") as file:
        try:
            header, begin = _verified(file, path)
            metadata = header.pop("__metadata__")
            if "meta" not in metadata:
                raise DamagedError(f"{path} is no checkpoint of fedray")
            meta = dict(json.loads(metadata["meta"]))
            arrays: dict[str, Any] = {}
            memories: dict[int, dict[str, Any]] = {}
            for name, entry in header.items():
                _check(entry, os.fstat(file.fileno()).st_size - begin)
                if name.startswith(MEMORY):
                    _, client, key = name.split("/", 2)
                    memories.setdefault(int(client), {})[key] = entry
                else:
                    arrays[name] = entry
        except DamagedError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedError(f"the checkpoint {path} is damaged: its header says {error}") from None
        yield _arrays(file, begin, arrays), meta
        for number, entries in memories.items():
            yield number, _arrays(file, begin, entries)


def _check(entry: Mapping[str, Any], size: int) -> None:
    """Raise for an entry that describes no array, or one of more bytes than the file has."""
    width, shape = np.dtype(TYPES[entry["dtype"]]).itemsize, entry["shape"]
    first, last = entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
        raise ValueError(f"a shape of {shape}")
    if last - first != math.prod(shape) * width or last > size:
        raise ValueError(f"an array of {last - first} bytes")


def _verified(file: BufferedReader, path: Path) -> tuple[dict[str, Any], int]:
    """The header and where the data begin, after the whole file was checked against its digest."""
    length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise DamagedError(f"{path} is no checkpoint of fedray, or it is damaged: its header has {length} bytes")
    head = bytearray(length.to_bytes(8, "little") + file.read(length))
    if not head.startswith(BEGINNING.encode(), 8):
        raise DamagedError(f"{path} is no checkpoint of fedray, or it is damaged: its header has no digest")
    claimed, head[DIGEST] = head[DIGEST], UNKNOWN.encode()
    digest = hashlib.file_digest(file, blake2b)  # in small pieces, to the end of the file
    digest.update(head)
    if digest.hexdigest().encode() != claimed:
        raise DamagedError(f"the checkpoint {path} is damaged: its bytes do not match the digest in its header")
    return json.loads(head[8:]), 8 + length


def _arrays(file: BufferedReader, begin: int, entries: dict[str, Any]) -> Vectors:
    """The arrays that the header describes by these entries, read from the file."""
    arrays: Vectors = {}
    for name, entry in entries.items():
        file.seek(begin + entry["data_offsets"][0])
        array = np.fromfile(file, TYPES[entry["dtype"]], math.prod(entry["shape"]))
        arrays[name] = array.reshape(entry["shape"])
    return arrays
