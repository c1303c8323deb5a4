"""A lock file for one process at a time. It is locked while a process is at work, and removed afterwards."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fedray.core.atomic import writing
from fedray.core.errors import BusyError


@contextmanager
def hold(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path` for the length of a `with`; BusyError where this or another process holds it.

    The error's message is `refusal`, with the process that holds the lock in place of `{process}`. The lock ends with
    the process, however that ends. When the block raises, folders made for the lock alone are removed with it.
    StorageError where no lock file can be made.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(path, refusal)
    with lock:
        try:
            yield
        except BaseException:
            remove(path)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
            raise
        remove(path)


def remove(path: Path) -> None:
    """Remove a lock file. Where the disk cannot be written the file stays, unlocked, and stops no other process."""
    with suppress(OSError):
        path.unlink()


def locked(path: Path, refusal: str) -> IO[str]:
    """The lock file, open and locked, with this process's id in it."""
    while True:
        try:
            lock = path.open("a+")
        except FileNotFoundError:  # another process has just removed the folder made for its lock
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with lock:
                lock.seek(0)
                raise BusyError(refusal.format(process=f"process {lock.read() or 'unknown'}")) from None
        with suppress(FileNotFoundError):
            if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                break
        lock.close()  # its holder has removed the file since it was opened here
    with suppress(OSError):  # the id is only for other processes' messages, and the disk may be full
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())
    return lock
