"""--fresh: before a run starts over, its files move into a results folder beside its own, `NAME.old-1`.

The files are renamed one by one, the run's row first. A mark in the new folder says that the move has begun. It goes
when the move is done. After a kill in between, the next start moves the rest to the same place.
"""

import errno
import os
import shutil
from itertools import count
from pathlib import Path

from fedray.core.atomic import replacing, sync, writing
from fedray.core.errors import BadInputError
from fedray.results.files import read_row
from fedray.results.journal import read_journal
from fedray.results.recorder import check_writable
from fedray.results.schema import PER_RUN
from fedray.run import segments

LONGEST = 100  # letters of a results name


def move_aside(folder: Path, run: str, into: Path | None = None) -> Path | None:
    """Move all files of a run out of the results `folder` and return their new folder; None where there are none.

    The new folder is the one of an unfinished move, else `into` if it has no files of this run, else a new one. The
    caller holds the run's lock.
    """
    target = begun(folder, run)
    there = files(folder, run)
    if target:
        for leftover in target.rglob(".*.tmp-*"):
            leftover.unlink()
    else:
        if not there:
            return None
        target = into if into and not files(into, run) else next_folder(folder)
    with writing(target):
        target.mkdir(exist_ok=True)
        mark = mark_of(target, run)
        mark.write_text(folder.name)
        sync(target)
        copy_beside(folder, run, target)
        for path in there:
            move(path, target / path.relative_to(folder))
        for inner in {path.parent.relative_to(folder) for path in there}:
            sync(target / inner)
        mark.unlink()
        sync(target)
    return target


def begun(folder: Path, run: str) -> Path | None:
    """The folder of a move of this run that was not finished; None where there is none."""
    olds = (path for path in folder.parent.glob("*.old-*") if is_old(path, folder))
    marks = (mark_of(old, run) for old in olds)
    return next((mark.parent for mark in marks if mark.exists() and mark.read_text() in ("", folder.name)), None)


def next_folder(folder: Path) -> Path:
    """The first of NAME.old-1, NAME.old-2, ... that is empty or absent; BadInputError where it cannot be made."""
    free = next(path for number in count(1) if is_free(path := old_folder(folder, number)))
    check_writable(free)
    return free


def is_free(path: Path) -> bool:
    """Whether the path is absent or an empty folder, as a kill before the first move leaves it."""
    return not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))


def old_folder(folder: Path, number: int) -> Path:
    """The path of NAME.old-N. It is a results name itself, so a long NAME is cut."""
    suffix = f".old-{number}"
    return folder.with_name(folder.name[: LONGEST - len(suffix)] + suffix)


def is_old(path: Path, folder: Path) -> bool:
    number = path.name.rpartition("-")[2]
    return number.isdecimal() and path == old_folder(folder, int(number))


def mark_of(target: Path, run: str) -> Path:
    return target / f".{run}.moving"


def files(folder: Path, run: str) -> list[Path]:
    """All files of a run, its row first: without the row, readers of the folder ignore its other tables.

    Weights & Biases keeps a folder, which is moved whole.
    """
    tables = [f"{table}/{run}.parquet" for table in ("runs", *(table for table in PER_RUN if table != "runs"))]
    others = [f"checkpoints/{run}.safetensors", f"checkpoints/{run}.previous.safetensors"]
    others += [f"models/{run}.safetensors", f"models/{run}.best.safetensors"]
    others += [f"checkpoints/{path.name}" for path in segments.paths_of(folder / "checkpoints" / f"{run}.safetensors")]
    found = [path for name in (*tables, f"journal/{run}.jsonl", *others) if os.path.lexists(path := folder / name)]
    return [*found, *sorted(folder.glob(f"tensorboard/{run}/*")), *sorted(folder.glob(f"wandb/*run-*-{run}"))]


def copy_beside(folder: Path, run: str, target: Path) -> None:
    """Copy the files that the run shares with others."""
    for path in shared_files(folder, run):
        copy = target / path.relative_to(folder)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            copy_file(path, copy)


def shared_files(folder: Path, run: str) -> list[Path]:
    """The files that a run shares with others: the settings file and its partition, or all where that is not known."""
    partition = partition_of(folder, run)
    there = (folder / "experiment.toml", *sorted(folder.glob(f"partitions/{partition or '[!.]*'}.parquet")))
    return [path for path in there if path.is_file()]


def partition_of(folder: Path, run: str) -> str | None:
    try:
        return read_partition(folder, run)
    except BadInputError:
        return None


def read_partition(folder: Path, run: str) -> str | None:
    """The partition that a run's row, or its journal, names; BadInputError where neither can be read."""
    row, journal = folder / "runs" / f"{run}.parquet", read_journal(folder / "journal" / f"{run}.jsonl")
    found = read_row(row)["partition_id"][0].as_py() if row.exists() else None
    return found or (journal.header["runs"]["partition_id"][0] if journal else None)


def move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # the results are a file system of their own
            raise
        if path.is_dir():
            shutil.copytree(path, target, copy_function=copy_file, dirs_exist_ok=True)
            shutil.rmtree(path)
        else:
            copy_file(path, target)
            path.unlink()


def copy_file(path: str | Path, target: str | Path) -> None:
    with replacing(Path(target)) as temporary:
        shutil.copy2(path, temporary)
