"""The removal of runs from a results folder that others share.

First a run's row and its journal move into the folder `.removing`: for all readers the run is gone with them, and its
settings stay known. Then its other files go, and the rows last. So a kill at any moment leaves results that load, and
the same removal finishes what was begun.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fedray.core.atomic import sync, writing
from fedray.core.errors import BadInputError, BusyError
from fedray.core.lock import hold
from fedray.results.recorder import lock_of
from fedray.run.fresh import files, read_partition
from fedray.run.stored import REMOVING, StoredRun, named

BUSY = "a sweep or another removal ({{process}}) is at work in {folder}/"


def check_idle(runs: Sequence[StoredRun]) -> None:
    """BusyError where one of the runs is being played."""
    for each in runs:
        with lock_of(each.folder, each.run):
            pass


@contextmanager
def alone(folders: Collection[Path]) -> Iterator[None]:
    """Keep sweeps and other removals out of these results folders; BusyError where one is at work."""
    if not folders:
        yield
        return
    first, *others = folders
    with hold(first / ".sweep.lock", BUSY.format(folder=first)), alone(others):
        yield


def remove(folder: Path, runs: Sequence[StoredRun], check: Callable[[StoredRun], None] = lambda each: None) -> None:
    """Remove all files of these runs of a folder, and the partitions that no other run has.

    `check` is called with each run while its lock is held, and may raise. BusyError where a run is being played. The
    runs before it are removed then. The caller holds the folder (`alone`).
    """
    done: list[StoredRun] = []
    leftovers = list(folder.glob("*/.*.tmp-*"))  # of killed writers
    with writing(folder):
        try:
            for each in runs:
                with lock_of(folder, each.run):
                    check(each)
                    put_away(folder, each.run, [path for path in leftovers if path.name.startswith(f".{each.run}.")])
                done.append(each)
        except BusyError as error:
            raise BusyError(f"{error}; {len(done)} of {len(runs)} runs were removed before it") from None
        finally:
            drop_partitions(folder, done)
            forget(folder, done)


def put_away(folder: Path, run: str, leftovers: Sequence[Path]) -> None:
    """Remove a run's files and these leftovers, but for its row and its journal, which move aside.

    Checkpoints go first: where the rest is killed the run is still one that its command plays.
    """
    for path in files(folder, run):
        if path.parent.name == "checkpoints":
            delete(path)
    for name in (f"runs/{run}.parquet", f"journal/{run}.jsonl"):
        path, aside = folder / name, folder / REMOVING / name
        if os.path.lexists(path):
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
            sync(aside.parent)
            sync(path.parent)
    for path in (*files(folder, run), *leftovers):
        delete(path)
    with suppress(OSError):  # it logged nothing there
        (folder / "tensorboard" / run).rmdir()


def forget(folder: Path, runs: Sequence[StoredRun]) -> None:
    """Remove what is known of these runs aside. With it their removal is done."""
    for each in runs:
        for path in reversed(files(folder / REMOVING, each.run)):
            delete(path)
    for inner in ("runs", "journal", "partitions", ""):
        with suppress(OSError):  # it is not there, or it has what another removal left
            (folder / REMOVING / inner).rmdir()


def delete(path: Path) -> None:
    """Remove a file, a link and not what it leads to, or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_partitions(folder: Path, runs: Sequence[StoredRun]) -> None:
    """Remove the partitions that these runs had alone. One that a run takes up meanwhile goes back to its place."""
    aside = folder / REMOVING / "partitions"
    for partition in freed(folder, runs):
        path = folder / "partitions" / f"{partition}.parquet"
        if path.exists():
            aside.mkdir(parents=True, exist_ok=True)
            path.replace(aside / path.name)
    unused = freed(folder, runs)
    for path in aside.glob("*.parquet"):
        target = folder / "partitions" / path.name
        if path.stem in unused or target.exists():
            path.unlink()
        else:
            path.replace(target)


def freed(folder: Path, runs: Sequence[StoredRun], leaving: Collection[str] = ()) -> set[str]:
    """The partitions that these runs have and no other one; none where a damaged row may name any.

    Runs that are half removed have none any more, and neither have those that are `leaving`.
    """
    try:
        kept = {read_partition(folder, run) for run, removing in named(folder) if not removing and run not in leaving}
    except BadInputError:
        return set()
    return {each.row["partition_id"] for each in runs if each.row} - kept - {None}
