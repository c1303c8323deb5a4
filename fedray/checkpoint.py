"""A checkpoint is one safetensors file: named arrays, and JSON in its header. No pickle, so nothing in it can run.

The header also holds a BLAKE2b digest of everything else; a file damaged on disk is refused, never half loaded.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from fedray.atomic import remove_stale, replacing
from fedray.errors import BadInputError

TYPE_NAMES = {
    "<f8": "F64",
    "<f4": "F32",
    "<f2": "F16",
    "<i8": "I64",
    "<i4": "I32",
    "<i2": "I16",
    "|i1": "I8",
    "|u1": "U8",
    "|b1": "BOOL",
}


def save(path: str | Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays of any shape, and meta that JSON can hold, in place of `path`: durable once this returns.

    A kill at any moment leaves the file as it was before or as it is after. Tuples in `meta` come back as lists.
    ValueError where an array's type is none that safetensors has.
    """
    ordered = _in_c_order(arrays)
    text = json.dumps(meta)
    _write(Path(path), ordered, {"meta": text, "blake2b": _digest(text, ordered)})


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read back what `save` wrote, bit for bit; BadInputError where the file is missing, damaged or something else."""
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError:
        raise BadInputError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError, TypeError, UnicodeDecodeError) as error:
        raise BadInputError(f"the checkpoint {path} is damaged: {error}") from None
    if not {"meta", "blake2b"} <= header.keys():
        raise BadInputError(f"{path} is no checkpoint of fedray, or it is damaged: its header has no digest")
    if _digest(header["meta"], arrays) != header["blake2b"]:
        raise BadInputError(f"the checkpoint {path} is damaged: its bytes do not match the digest in its header")
    return arrays, json.loads(header["meta"])


def save_model(path: str | Path, tensors_by_name: dict[str, np.ndarray], meta: dict[str, str]) -> None:
    """Write a model as plain safetensors, for `safetensors.torch.load_file` or any other reader of the format."""
    _write(Path(path), _in_c_order(tensors_by_name), {"format": "pt", **meta})


def _write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Stream the arrays to a safetensors file: the header's length, the header as JSON, the arrays' bytes.

    By hand, because the library's own writer goes through a file of a random name, which a kill would leave behind.
    """
    in_order = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # keeps every array aligned to its type
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in in_order:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": TYPE_NAMES[array.dtype.str], "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in in_order:
            file.write(_bytes_of(array))


def _in_c_order(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays by name, in C order as the format wants them, copied only where they are not."""
    for name, array in arrays.items():
        if array.dtype.str not in TYPE_NAMES:
            raise ValueError(f"array {name!r} of type {array.dtype} cannot be saved")
    return {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    """BLAKE2b-128 of the metadata and of every array's name, type, shape and bytes, without a copy of any."""
    state = hashlib.blake2b(text.encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        state.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        state.update(_bytes_of(array))
    return state.hexdigest()


def _bytes_of(array: np.ndarray) -> memoryview:
    """The memory of an array in C order, without a copy."""
    return array.reshape(-1).view(np.uint8).data
