"""torchvision's ImageNet weights as files in torch's own cache, fetched where they are missing. No torch is needed.

FEDRAY_WEIGHTS_URL names a mirror: a folder with the files under torchvision's names. A mirror's file may differ from
the original. It is then kept under another name, so that no program mistakes it for the original.
"""

import os
import shutil
import sys
import tempfile
import zipfile
from functools import lru_cache
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest

ORIGIN = "https://download.pytorch.org/models"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first bytes of torch.save's files before they were zip
MODEL_FILES = (".safetensors", ".pt", ".pth", ".bin")
"""The endings of files that model.init may name: safetensors, and torch.save's."""
SECONDS = 30.0  # the longest wait for a byte from the server


def folder() -> Path:
    """The folder in which torch.hub keeps weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def places(file: str) -> tuple[str, Path, Path | None]:
    """The mirror's address or "", the place of the original file, and that of the mirror's file (None without one)."""
    original, mirror = folder() / file, os.environ.get("FEDRAY_WEIGHTS_URL", "").rstrip("/")
    copy = original.with_name(f"{original.stem}.of-{sha256(mirror.encode()).hexdigest()[:8]}.pth")
    return mirror, original, copy if mirror else None


def find(file: str) -> Path | None:
    """The file with these weights on this machine; None where there is none."""
    _, *paths = places(file)
    return next((path for path in paths if path and path.is_file()), None)


def locate(network: str, file: str) -> Path:
    """The file with a network's weights, fetched where it is missing; BadInputError where that fails."""
    if here := find(file):
        return here
    mirror, original, copy = places(file)
    url = f"{mirror or ORIGIN}/{file}"
    try:
        return fetch(url, original, copy)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # an HTTPError is also the server's open answer
        raise BadInputError(
            f"the ImageNet weights of {network} could not be fetched from {url} to {original.parent} ({error}): try "
            "again with a network, set FEDRAY_WEIGHTS_URL to a mirror, put the file there yourself, or start from "
            "random weights with --model.pretrained false"
        ) from error


def fetch(url: str, original: Path, copy: Path | None) -> Path:
    """Fetch a file to `original` if it has the hash that its name ends with, or else to `copy` if it holds weights.

    The file has a hidden name until it is complete. ValueError where it is cut short or fits neither.
    """
    original.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fedray-", dir=original.parent) as hidden:
        part = Path(hidden, "part")
        with (
            urlopen(Request(url, headers={"User-Agent": "fedray"}), timeout=SECONDS) as answer,
            part.open("wb") as file,
        ):
            expected = answer.headers.get("Content-Length")
            if sys.stderr.isatty():
                print(f"fetching {url} ({int(expected or 0) / 1e6:.0f} MB)", file=sys.stderr)
            shutil.copyfileobj(answer, file, 1 << 20)
        found = part.stat().st_size
        if expected and found != int(expected):
            raise ValueError(f"only {found} of {expected} bytes arrived")
        digest = hash_of(part)
        if digest.startswith(original.stem.rpartition("-")[2]):
            return part.rename(original)
        if copy is None:
            raise ValueError(f"its hash is {digest[:8]}, not the one in its name")
        if not holds_weights(part):
            raise ValueError("the file received holds no weights")
        return part.rename(copy)


def holds_weights(path: Path) -> bool:
    """Whether this looks like a whole file of torch.save."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(len(LEGACY)) == LEGACY


def is_mappable(path: Path) -> bool:
    """Whether torch can map the file into memory in place of reading it. Files of torch 1.6 and later can be mapped."""
    return zipfile.is_zipfile(path)


def given(path: str) -> Path:
    """The file that model.init names; BadInputError where this machine has none."""
    file = Path(path).expanduser()
    if file.is_file():
        return file
    beside = sorted(each.name for each in file.parent.glob("*") if each.suffix in MODEL_FILES)
    why = "it is no file" if file.exists() else "there is no such file on this machine"
    raise BadInputError(
        f"model.init = {path}: {why}, and each that builds the model needs it{nearest(file.name, beside)}"
    )


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits. It is computed once until the file changes."""
    about = path.stat()
    return _hash_of(path, about.st_size, about.st_mtime_ns)


@lru_cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return hash_of(path)


def hash_of(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
