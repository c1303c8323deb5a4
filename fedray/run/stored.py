"""The runs that a results folder has on disk: their rows, their files and how large they are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedray.results.folder import EVERY, load
from fedray.results.frames import Results
from fedray.results.selection import rows_of
from fedray.run.fresh import files

REMOVING = ".removing"
"""The folder within results that has the rows and journals of runs while they are removed: results themselves."""


@dataclass(frozen=True)
class StoredRun:
    """A run on disk. `row` is empty where neither its row nor its journal can be read."""

    folder: Path
    run: str
    row: Mapping[str, Any]
    removing: bool = False
    """Whether an earlier removal was ended in its midst."""

    @property
    def status(self) -> str:
        if self.removing:
            return "half removed"
        return str(self.row.get("status") or "damaged")

    @cached_property
    def files(self) -> list[Path]:
        """All files of the run alone, the files within its folders one by one."""
        found = [*files(self.folder, self.run), *files(self.folder / REMOVING, self.run)]
        return [path for each in found for path in leaves(each)]

    @cached_property
    def size(self) -> int:
        """The bytes of its files."""
        return sum(path.lstat().st_size for path in self.files)


def leaves(path: Path) -> Iterator[Path]:
    """The files in a folder, or the file itself."""
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            yield from leaves(inner)
    else:
        yield path


def is_results(path: Path) -> bool:
    """Whether the path is a folder with runs."""
    return any((path / name).is_dir() for name in ("runs", "journal", REMOVING))


def read_stored(folder: Path) -> tuple[Results, list[StoredRun]]:
    """The table `runs` of a results folder, and all its runs in order, also damaged and half removed ones.

    Files that cannot be read are told by the warnings of `load`.
    """
    place = folder if folder.name not in ("", "..") else folder.resolve()
    results = load(place.name, place.parent, tables=("runs",))
    found = {row["run"]: StoredRun(folder, row["run"], row) for row in rows_of(results)}
    if (folder / REMOVING).is_dir():
        left = rows_of(load(REMOVING, folder, tables=("runs",)))
        found |= {row["run"]: StoredRun(folder, row["run"], row, True) for row in left if row["run"] not in found}
    for run, removing in named(folder):
        found.setdefault(run, StoredRun(folder, run, {}, removing))
    return results, [found[run] for run in sorted(found)]


def named(folder: Path) -> Iterator[tuple[str, bool]]:
    """Each run with a row or a journal, whether that can be read or not, and whether it is half removed."""
    for place in (folder, folder / REMOVING):
        for name in (f"runs/{EVERY}.parquet", f"journal/{EVERY}.jsonl"):
            yield from ((path.stem, place != folder) for path in place.glob(name))
