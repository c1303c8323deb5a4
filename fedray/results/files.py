"""Files of results read back one by one: a Parquet table, a run's row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedray.core.errors import BadInputError, DamagedError
from fedray.core.lock import is_held
from fedray.core.version import __version__
from fedray.results.schema import SCHEMAS, in_order, needed


def read_parquet(path: Path, table: str) -> pa.Table:
    """One file of a table: its columns in order, null where the file lacks one, and then those that this version lacks.

    DamagedError where the file cannot be read. BadInputError where a column has another type, or where one is missing
    that says what a row is about.
    """
    try:
        check_file(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_schema(path, table, file.schema_arrow)
            found = file.read(use_threads=False)
        found.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"the results file {path} cannot be read: {error}") from None
    found = found if found.schema.equals(SCHEMAS[table]) else in_order(table, found)
    if others := set(found.column(0).unique().to_pylist()) - {path.stem}:
        raise DamagedError(f"the results file {path} is that of {sorted(map(str, others))[0]}")
    return found


def check_file(path: Path) -> None:
    """OSError where something else has a file's name: a pipe would never end."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")


def lock_path(folder: Path, run: str) -> Path:
    """The file that a process locks while it records a run of the results `folder`."""
    return folder / "journal" / f".{run}.lock"


def was_killed(folder: Path, run: str) -> bool:
    """Whether nobody records a run any more that was `running` when its row was read."""
    if is_held(lock_path(folder, run)):
        return False
    row = folder / "runs" / f"{run}.parquet"
    try:
        return not row.exists() or read_row(row)["status"][0].as_py() == "running"  # it may have ended well since
    except DamagedError:
        return True


def with_status(row: pa.Table, status: str) -> pa.Table:
    """The file of one run in `runs` with another status."""
    place = row.column_names.index("status")
    return row.set_column(place, row.schema.field(place), pa.array([status], row.schema.field(place).type))


def read_row(path: Path) -> pa.Table:
    """The file of one run in `runs`: a table of one row."""
    found = read_parquet(path, "runs")
    if len(found) != 1:
        raise DamagedError(f"the results file {path} has {len(found)} rows, not one")
    try:
        (row,) = found.to_pylist()
        if row["settings"] is not None:
            dict(json.loads(row["settings"]))
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise DamagedError(f"the results file {path} is damaged: {error}") from None
    return found


def check_columns(path: Path, table: str) -> None:
    """Raise BadInputError where nothing may be written beside this file: it has columns that this version lacks.

    Files that `read_parquet` refuses for their columns are refused, too; a damaged file passes. Only the end of the
    file is read.
    """
    try:
        check_file(path)
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return
    check_schema(path, table, found, newer=False)


def check_schema(path: Path, table: str, found: pa.Schema, newer: bool = True) -> None:
    """Raise BadInputError where the columns of a file are no table of this version, nor of an older one.

    With `newer` the file may have columns that this version lacks.
    """
    if found.equals(SCHEMAS[table]):
        return
    known, names = SCHEMAS[table], found.names
    lacks = [name for name in needed(table) if name not in names]
    more = [name for name in names if not newer and name not in known.names]
    others = [
        name
        for name in known.names
        if name in names and (names.count(name) > 1 or found.field(name).type != known.field(name).type)
    ]
    if lacks or more or others:
        raise other_version(path, version_of(path), lacks, more, others)


def version_of(path: Path) -> Any:
    """The version of fedray that wrote a run's table, as the run's row says; None where that is not known."""
    try:
        row = path.parents[1] / "runs" / path.name
        check_file(row)
        return pq.read_table(row, columns=["fedray_version"], partitioning=None)["fedray_version"][0].as_py()
    except (pa.ArrowException, OSError, KeyError, IndexError):
        return None


def rounds_planned(path: Path) -> int | None:
    """The column `rounds_planned` of a run's row, of which nothing else is read; DamagedError where that fails."""
    try:
        check_file(path)
        planned = pq.read_table(path, columns=["rounds_planned"], partitioning=None)["rounds_planned"].to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedError(f"the results file {path} cannot be read: {error}") from None
    return planned[0] if planned and isinstance(planned[0], int) else None


def other_version(
    path: Path, version: Any, lacks: Sequence[str] = (), more: Sequence[str] = (), others: Sequence[str] = ()
) -> BadInputError:
    """The error for a file that lacks columns, has more of them than this version, or has some of another type."""
    which = f"version {version}" if version and version != __version__ else "another version"
    says = [f"without {some(lacks)}"] * bool(lacks) + [f"with {some(more)}"] * bool(more)
    says += [f"with {some(others)} of another type"] * bool(others)
    return BadInputError(
        f"{path} was written by {which} of fedray, its columns {' and '.join(says)}, and cannot stand with what this "
        f"one, {__version__}, writes; nothing in {path.parents[1]}/ was changed: take another --output.name, or that "
        "version"
    )


def some(names: Sequence[str]) -> str:
    """The first three of these names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
