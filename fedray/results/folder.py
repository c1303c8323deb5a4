"""What runs left on disk, read back for pandas; docs/results.md documents every table and column."""

import difflib
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from fedray.core.errors import BadInputError, DamagedError
from fedray.results.files import check_columns, read_parquet, read_row
from fedray.results.frames import DamagedResultsWarning, Results
from fedray.results.journal import journal_tables, read_journal
from fedray.results.schema import FINAL_STATUSES, PER_RUN, SCHEMAS

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, root: str | Path = "results", run: str | None = None) -> Results:
    """Read all tables of `name`, or of one run there, with what a killed or running process has only in its journal.

    A damaged file is left out, with a DamagedResultsWarning that names it; all else of its run is there. BadInputError
    where there are no such results (it names the nearest), or where another version of fedray wrote some of them.
    """
    folder = Path(root) / name
    if not name or not folder.is_dir():
        raise BadInputError(_missing(name, Path(root)))
    parts = _read_runs(folder, run or EVERY)
    used = {name for row in parts["runs"].values() for name in row["partition_id"].to_pylist()}
    parts["partitions"] = _read_partitions(folder, None if run is None else used)
    frames = {table: _frame(table, files) for table, files in parts.items()}
    return Results(**frames | {"runs": _with_settings(frames["runs"])})


def status(root: str | Path, name: str, run: str) -> str | None:
    """The status of a run, None where it never started; BadInputError where its file is damaged or another version's.

    `running` is also what a killed process leaves behind.
    """
    path = Path(root) / name / "runs" / f"{run}.parquet"
    return str(read_row(path)["status"][0]) if path.exists() else None


def check_version(root: str | Path, name: str) -> None:
    """Raise BadInputError where another version of fedray has written results of this name; no table is read.

    It looks at a hundred runs' rows, at most, and at one file of each other table: whoever wrote here before has looked
    as well.
    """
    folder = Path(root) / name
    for table in SCHEMAS:
        for path in islice(folder.glob(f"{table}/{EVERY}.parquet"), 100 if table == "runs" else 1):
            check_columns(path, table)


EVERY = "[!.]*"
"""The pattern of a whole file's name; one that is being written begins with a dot."""

T = TypeVar("T")


def _read_runs(folder: Path, wanted: str) -> dict[str, dict[str, pa.Table]]:
    """Of each per-run table what there is of each run: from Parquet once its status is final, else from its journal.

    The population, which no round changes, is always in Parquet.
    """
    # Journals first: one that a finishing run removes after this look is not needed, its tables being complete.
    journals = _read_all(folder.glob(f"journal/{wanted}.jsonl"), read_journal)
    paths = sorted(folder.glob(f"runs/{wanted}.parquet"))
    rows = _read_all(paths, read_row)
    ended = {run for run, row in rows.items() if row["status"][0].as_py() in FINAL_STATUSES}
    live = _read_all(
        (folder / "journal" / f"{run}.jsonl" for run in journals.keys() - ended),
        lambda path: journal_tables(path, journals[path.stem], rows.get(path.stem)),
    )
    parts: dict[str, dict[str, pa.Table]] = {"runs": rows}
    for table in PER_RUN:
        kept = {run: tables[table] for run, tables in live.items() if table in tables}
        if table != "runs":
            stored = {path.stem for path in paths}.union(live) - kept.keys()
            files = (folder / table / f"{run}.parquet" for run in stored)
            parts[table] = _read_all(files, partial(read_parquet, table=table))
        parts[table] |= kept
    return parts


def _read_partitions(folder: Path, only: Collection[str] | None) -> dict[str, pa.Table]:
    paths = folder.glob(f"partitions/{EVERY}.parquet")
    wanted = (path for path in paths if only is None or path.stem in only)
    return _read_all(wanted, partial(read_parquet, table="partitions"))


def _read_all(paths: Iterable[Path], read: Callable[[Path], T | None]) -> dict[str, T]:
    """What is read of these files, by their names; one that is gone is left out, a damaged one with a warning."""
    found = {}
    for path in sorted(paths):
        try:
            result = read(path) if path.exists() else None
        except DamagedError as error:
            warnings.warn(f"{error}; it was left out", DamagedResultsWarning, stacklevel=4)  # whoever called load
        else:
            if result is not None:
                found[path.stem] = result
    return found


def _frame(table: str, files: Mapping[str, pa.Table]) -> "pd.DataFrame":
    """The tables of all files as one, sorted by the files' names."""
    return pa.concat_tables([SCHEMAS[table].empty_table(), *(files[name] for name in sorted(files))]).to_pandas()


def _with_settings(runs: "pd.DataFrame") -> "pd.DataFrame":
    """The runs with each setting as a column, but for settings that are a column already."""
    import pandas as pd

    rows = [dict(_flatten(json.loads(text))) for text in runs["settings"].dropna()]
    settings = pd.DataFrame(rows, index=runs.index[runs["settings"].notna()])
    return runs.join(settings.drop(columns=[name for name in settings if name in runs]))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value  # a tuple can be grouped by


def _missing(name: str, root: Path) -> str:
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"there are no results {name!r} in {root}" + (f"; the nearest name is {nearest[0]!r}" if nearest else "")
