"""Files that appear whole or not at all: written under another name, forced to disk, renamed.

The other name starts with a dot, because readers of a folder (pandas, pyarrow, `ls`) skip such names; a file that only
*ends* in `.tmp` would be read, half written.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedray.core.errors import StorageError

_serial = itertools.count()


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield the temporary path to write; when the block ends it replaces `path`, durably, and never when it raises.

    What `path` was before is then at `keep`; in between, for a moment, nothing is at `path`.
    """
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}-{next(_serial)}")
    try:
        yield temporary
        sync(temporary)
        if keep and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # where nothing can be written any more, nothing can be removed either
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """For the length of a `with` in which results are written to `folder`, an OSError is a StorageError."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # pyarrow's own are long
        raise StorageError(f"results cannot be written to {folder}: {why}") from error


def remove_stale(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; only for a file that has one writer at a time."""
    for leftover in path.parent.glob(".*"):
        if leftover.name.startswith(_prefix(path)):
            leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prefix(path: Path) -> str:
    return f".{path.name}.tmp-"
