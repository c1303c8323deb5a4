"""A lock file for one process at a time. It is locked while a process is at work, and removed afterwards."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fedray.core.atomic import writing
from fedray.core.errors import BusyError

TRIES = 5


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


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`, as far as this one can know; nothing is written.

    The lock is shared with other readers for a moment, in which `hold` tries again.
    """
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is held, or may not be read, or this file system has no locks
        return True
    return False


def remove(path: Path) -> None:
    """Remove a lock file. Where the disk cannot be written the file stays, unlocked, and stops no other process."""
    with suppress(OSError):
        path.unlink()


def locked(path: Path, refusal: str) -> IO[str]:
    """The lock file, open and locked, with this process's id in it."""
    tries = iter(range(TRIES))
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
                if next(tries, None) is not None:  # perhaps it is a reader, which only looks whether it is held
                    time.sleep(0.01)
                    continue
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
