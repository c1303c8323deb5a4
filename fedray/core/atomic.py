"""Files that appear whole or not at all. A file is written under a temporary name, forced to disk, and renamed.

The temporary name starts with a dot, because readers of a folder (pandas, pyarrow, `ls`) skip such names. They would
read a half-written file whose name only *ends* in `.tmp`.
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
    """Yield the temporary path to write. It replaces `path`, durably, when the block ends, but not when it raises.

    The old file is then at `keep`, if that is given. In between there is no file at `path` for a moment.
    """
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}-{next(_serial)}")
    try:
        yield temporary
        sync(temporary)
        if keep and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # a disk that cannot be written may not let a file be removed, either
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError while results are written to `folder`."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # pyarrow's own messages are long
        raise StorageError(f"results cannot be written to {folder}: {why}") from error


def remove_stale(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`. The file must have only one writer at a time."""
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
