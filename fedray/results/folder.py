"""Results on disk, read back for pandas; docs/results.md documents every table and column."""

import difflib
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from fedray.core.errors import BadInputError, DamagedError
from fedray.core.newer import NEWER, with_neutral
from fedray.core.settings import flatten
from fedray.core.version import __version__
from fedray.results.files import check_columns, read_parquet, read_row, some, was_killed, with_status
from fedray.results.frames import DamagedResultsWarning, NewerResultsWarning, Results
from fedray.results.journal import journal_tables, read_journal
from fedray.results.schema import FINAL_STATUSES, FOLDER, GROUPING, PER_RUN, PLAYED, REPEATS, SCHEMAS
from fedray.results.together import merge

if TYPE_CHECKING:
    import pandas as pd


ALL = tuple(SCHEMAS)


def load(
    name: str | Path | Sequence[str],
    root: str | Path = "results",
    run: str | None = None,
    tables: Collection[str] = ALL,
) -> Results:
    """Read all tables of `name`, or of one run there, with what a killed or running process has only in its journal.

    Of a list of names it reads all, and `runs` has a column `folder` that tells them apart. A run that several of them
    have counts once, with a RepeatedRunsWarning: as it is in the first where it has ended, otherwise in the first.
    Of `tables` only these are read, and `runs` in any case; the others are empty.

    Files of an older fedray have nulls in the columns, and neutral values in the settings, that they lack. A damaged
    file is left out, with a DamagedResultsWarning that names it; all else of its run is there. Columns that only a
    newer fedray knows are left out, with a NewerResultsWarning. BadInputError where there are no such results (it names
    the nearest), or where a column has another type.
    """
    alone = isinstance(name, str | Path)
    names = [str(name)] if isinstance(name, str | Path) else list(dict.fromkeys(name))
    if not names:
        raise BadInputError("the list of results to load is empty; name at least one")
    for each in names:
        if not each or not (Path(root) / each).is_dir():
            raise BadInputError(_missing(each, Path(root)))
    return load_folders({each: Path(root) / each for each in names}, run, together=not alone, tables=tables)


def load_folders(
    folders: Mapping[str, Path], run: str | None = None, together: bool = True, tables: Collection[str] = ALL
) -> Results:
    """What `load` gives, of folders by the names that are to tell them apart; without `together` there is one."""
    if others := sorted(set(tables) - SCHEMAS.keys()):
        raise BadInputError(f"there is no table {others[0]!r}; there are {', '.join(SCHEMAS)}")
    if absent := next((folder for folder in folders.values() if not folder.is_dir()), None):
        raise BadInputError(_missing(absent.name, absent.parent))
    parts: dict[str, dict[str, pa.Table]] = {table: {} for table in SCHEMAS}
    origin: dict[str, str] = {}
    for name, folder in folders.items():
        found, newer = _read_runs(folder, run or EVERY, tables)
        used = {name for row in found["runs"].values() for name in row["partition_id"].to_pylist()}
        partitions = _read_partitions(folder, None if run is None else used) if "partitions" in tables else {}
        parts["partitions"] = {**partitions, **parts["partitions"]}
        merge(parts, found, origin, name)
        all_found = {**found, "partitions": partitions}
        newer |= {
            f"{table}.{column}" for table, files in all_found.items() for column in _unknown_columns(table, files)
        }
        if newer:
            sentence = f"{folder} has columns that this fedray, {__version__}, does not know, and they were left out"
            warnings.warn(f"{sentence}: {some(sorted(newer))}", NewerResultsWarning, stacklevel=3)
    frames = {table: _frame(table, files) for table, files in parts.items()}
    frames["runs"] = _with_settings(frames["runs"])
    if together:
        frames["runs"] = frames["runs"].assign(**{FOLDER: frames["runs"]["run"].map(origin)})
    return Results(**{table: _with_neutral_grouping(frame, frames["runs"]) for table, frame in frames.items()})


def status(root: str | Path, name: str, run: str) -> str | None:
    """The status of a run, None where it never started; BadInputError where its file is damaged or no run's row."""
    folder = Path(root) / name
    path = folder / "runs" / f"{run}.parquet"
    if not path.exists():
        return None
    found = str(read_row(path)["status"][0])
    return "killed" if found == "running" and was_killed(folder, run) else found


def check_version(root: str | Path, name: str) -> None:
    """Raise BadInputError where results of this name have columns that this fedray lacks; no table is read.

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


def _read_runs(folder: Path, wanted: str, only: Collection[str]) -> tuple[dict[str, dict[str, pa.Table]], set[str]]:
    """Each per-run table of each run, and the columns in journals that this version lacks.

    Tables that are not in `only` are empty, but for `runs`.

    A run is read from Parquet once its status is final, else from its journal. Its population, which no round changes,
    is always in Parquet.
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
        if table not in ("runs", *only):
            parts[table] = {}
            continue
        if table != "runs":
            stored = {path.stem for path in paths}.union(live) - kept.keys()
            files = (folder / table / f"{run}.parquet" for run in stored)
            parts[table] = _read_all(files, partial(read_parquet, table=table))
        parts[table] |= kept
    for run, row in parts["runs"].items():
        if row["status"][0].as_py() == "running" and was_killed(folder, run):
            parts["runs"][run] = with_status(row, "killed")
    return parts, {name for run in live for name in journals[run].newer}


def _read_partitions(folder: Path, only: Collection[str] | None) -> dict[str, pa.Table]:
    paths = folder.glob(f"partitions/{EVERY}.parquet")
    wanted = (path for path in paths if only is None or path.stem in only)
    return _read_all(wanted, partial(read_parquet, table="partitions"))


def _read_all(paths: Iterable[Path], read: Callable[[Path], T | None]) -> dict[str, T]:
    """The content of these files by their names. A file that is gone is left out, a damaged one with a warning."""
    found = {}
    for path in sorted(paths):
        try:
            result = read(path) if path.exists() else None
        except DamagedError as error:
            warnings.warn(f"{error}; it was left out", DamagedResultsWarning, stacklevel=5)  # whoever called load
        else:
            if result is not None:
                found[path.stem] = result
    return found


def _unknown_columns(table: str, files: Mapping[str, pa.Table]) -> set[str]:
    """The columns of the files that this version lacks; `read_parquet` puts them last."""
    known = len(SCHEMAS[table])
    return {name for each in files.values() for name in each.column_names[known:]}


def _frame(table: str, files: Mapping[str, pa.Table]) -> "pd.DataFrame":
    """The tables of all files as one, sorted by the files' names."""
    if not files:
        return _empty(table).copy()
    known = SCHEMAS[table]
    return pa.concat_tables(
        [known.empty_table(), *(files[name].select(known.names) for name in sorted(files))]
    ).to_pandas()


@cache
def _empty(table: str) -> "pd.DataFrame":
    return SCHEMAS[table].empty_table().to_pandas()


def _with_settings(runs: "pd.DataFrame") -> "pd.DataFrame":
    """The runs with each setting as a column, but for settings that are a column already."""
    import pandas as pd

    rows = [settings_of(text) for text in runs["settings"].dropna()]
    known = runs.index[runs["settings"].notna()]
    for name, kind in PLAYED.items():
        theirs = [row[name] if type(row.get(name)) is kind else None for row in rows]
        runs = _filled(runs, name, pd.Series(theirs, known, object).reindex(runs.index))
    settings = pd.DataFrame(rows, index=known)
    return runs.join(settings.drop(columns=[name for name in settings if name in runs]))


def settings_of(text: str) -> dict[str, Any]:
    """The settings of one run by dotted name, from its column `settings`; a list is a tuple, to be grouped by."""
    found = with_neutral(dict(flatten(json.loads(text))))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _with_neutral_grouping(frame: "pd.DataFrame", runs: "pd.DataFrame") -> "pd.DataFrame":
    """The frame whose grouping columns are filled in where they repeat a setting that is newer than the file."""
    for column in [name for name in GROUPING if REPEATS.get(name) in NEWER and name in frame]:
        if REPEATS[column] in runs:
            frame = _filled(frame, column, frame["run"].map(runs.set_index("run")[REPEATS[column]]))
    return frame


def _filled(frame: "pd.DataFrame", column: str, others: "pd.Series[Any]") -> "pd.DataFrame":
    """The frame with other values where this column of `runs` has none, typed as it is."""
    if not frame[column].isna().any():
        return frame
    filled = frame[column].astype(object).where(frame[column].notna(), others)
    typed = pa.array(filled, SCHEMAS["runs"].field(column).type, from_pandas=True).to_pandas()
    return frame.assign(**{column: typed.set_axis(frame.index)})


def _missing(name: str, root: Path) -> str:
    """The sentence for results that are not there: where they were looked for, and the nearest name there."""
    looked = (root / name).absolute()
    place = looked.parent if name else looked
    if not place.is_dir():
        return f"there are no results {name!r}: there is no folder {place}"
    names = [path.name for path in place.iterdir() if path.is_dir()]
    nearest = difflib.get_close_matches(looked.name, names, n=1, cutoff=0.0)
    return f"there are no results {name!r} in {place}" + (f"; the nearest name is {nearest[0]!r}" if nearest else "")
