"""What is stored of results, read back file by file: a Parquet table, a run's row, a journal."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedray.core.errors import BadInputError, DamagedError
from fedray.core.version import __version__
from fedray.results.schema import SCHEMAS


def read_parquet(path: Path, table: str) -> pa.Table:
    """One file of a table; DamagedError where it cannot be read, BadInputError where its columns are others."""
    try:
        check_file(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(SCHEMAS[table]):
                raise foreign(path, table, file.schema_arrow.names)
            found = file.read(use_threads=False)
        found.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"the results file {path} cannot be read: {error}") from None
    if others := set(found.column(0).unique().to_pylist()) - {path.stem}:
        raise DamagedError(f"the results file {path} is that of {sorted(map(str, others))[0]}")
    return found


def check_file(path: Path) -> None:
    """OSError where something else has a file's name: a pipe would never end."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")


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
    """Raise the BadInputError of `read_parquet` for other columns; of the file, only the end is read.

    A damaged file passes.
    """
    try:
        check_file(path)
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return
    if not found.equals(SCHEMAS[table]):
        raise foreign(path, table, found.names)


def foreign(path: Path, table: str, theirs: Sequence[str]) -> BadInputError:
    """What to raise for a Parquet file with other columns; the version that wrote it stands in the run's row."""
    try:
        check_file(path.parents[1] / "runs" / path.name)
        row = pq.read_table(path.parents[1] / "runs" / path.name, columns=["fedray_version"], partitioning=None)
        version = row["fedray_version"][0].as_py()
    except (pa.ArrowException, OSError, KeyError, IndexError):
        version = None
    return _other_version(path, version, theirs, SCHEMAS[table].names)


def _other_version(path: Path, version: Any, theirs: Sequence[str], mine: Sequence[str]) -> BadInputError:
    """What to raise for a file with their columns where mine should be."""
    which = f"version {version}" if version and version != __version__ else "another version"
    lacks, more = [name for name in mine if name not in theirs], [name for name in theirs if name not in mine]
    says = [f"without {some(lacks)}"] * bool(lacks) + [f"with {some(more)}"] * bool(more)
    columns = " and ".join(says) or "of other types or in another order"
    return BadInputError(
        f"{path} was written by {which} of fedray, its columns {columns}, and cannot stand with what this "
        f"one, {__version__}, writes; nothing in {path.parents[1]}/ was changed: take another --output.name, or that "
        "version"
    )


def some(names: Sequence[str]) -> str:
    """The first three of these names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
