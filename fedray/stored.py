"""What is stored of results, read back file by file: a Parquet table, a run's row, a journal."""

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedray import __version__
from fedray.errors import BadInputError
from fedray.tables import BY_ROUND, OWN, SCHEMAS, Columns, join_batches, summarise, to_batch, to_columns, to_rows


class DamagedError(BadInputError):
    """A file of the results cannot be read; the sentence begins with which."""


def read_parquet(path: Path, table: str) -> pa.Table:
    """One file of a table; DamagedError where it cannot be read, BadInputError where its columns are others."""
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCHEMAS[table]):
                raise foreign(path)
            return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"the results file {path} cannot be read: {error}") from None


def read_row(path: Path) -> pa.Table:
    """The file of one run in `runs`: a table of one row."""
    found = read_parquet(path, "runs")
    if len(found) != 1:
        raise DamagedError(f"the results file {path} has {len(found)} rows, not one")
    return found


def check_columns(path: Path, table: str) -> None:
    """Raise the BadInputError of `read_parquet` for other columns; of the file, only the end is read.

    A damaged file passes.
    """
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return
    if not found.equals(SCHEMAS[table]):
        raise foreign(path)


Journal = tuple[dict[str, Any], dict[int, dict[str, Columns]]]
"""The header (run, grouping, and the columns of runs), and by round the columns of BY_ROUND."""


def read_journal(path: Path) -> Journal | None:
    """A journal without what a kill cut short at its end, of a round recorded twice the later one; None if it is gone.

    DamagedError where anything but the last line is damaged, BadInputError where its columns are others.
    """
    try:
        texts = path.read_bytes().rstrip(b"\n").split(b"\n")
    except FileNotFoundError:
        return None
    if len(texts) > 1 and not _is_json(texts[-1]):
        texts.pop()
    try:
        header, *lines = map(json.loads, texts)
        by_round = {line["rounds"]["round"][0]: line for line in lines}
        whole = all(line.keys() >= set(BY_ROUND) for line in lines)
        if not whole or not header.keys() >= {"run", "grouping", "runs"}:
            raise ValueError("it lacks a table")
        same = header["runs"].keys() == OWN["runs"].keys()
        same = same and all(line[table].keys() == OWN[table].keys() for line in lines for table in BY_ROUND)
        version = header["runs"].get("fedray_version", [None])[0]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DamagedError(f"the journal {path} is damaged: {error}") from None
    if not same:
        raise _other_version(path, version)
    return header, by_round


def journal_tables(path: Path, journal: Journal, row: pa.Table | None) -> dict[str, pa.Table]:
    """The tables of a run that its journal holds, `row` being what else is known of the run.

    DamagedError where a value is of the wrong type; `path` is the journal's, for its sentence.
    """
    header, lines = journal
    try:
        batches = {table: to_batch(table, _joined(table, lines.values())) for table in BY_ROUND}
        known = to_rows(header["runs"])[0] if row is None else row.select(list(OWN["runs"])).to_pylist()[0]
        totals = summarise(to_rows(_joined("rounds", lines.values())))
        batches["runs"] = to_batch("runs", to_columns("runs", [known | totals]))
        return {
            table: join_batches(table, [each], header["run"], header["grouping"]) for table, each in batches.items()
        }
    except (ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
        raise DamagedError(f"the journal {path} is damaged: {error}") from None


def foreign(path: Path) -> BadInputError:
    """What to raise for a Parquet file with other columns; the version that wrote it stands in the run's row."""
    try:
        row = pq.read_table(path.parents[1] / "runs" / path.name, columns=["fedray_version"], partitioning=None)
        version = row["fedray_version"][0].as_py()
    except (pa.ArrowException, OSError, KeyError, IndexError):
        version = None
    return _other_version(path, version)


def _other_version(path: Path, version: Any) -> BadInputError:
    which = f"version {version}" if version and version != __version__ else "another version"
    return BadInputError(
        f"{path} was written by {which} of fedray and has other columns than this one, {__version__}, which has "
        "changed nothing there; take that version, or another output.name"
    )


def _joined(table: str, lines: Iterable[dict[str, Columns]]) -> Columns:
    parts = [line[table] for line in lines]
    return {name: list(chain.from_iterable(part[name] for part in parts)) for name in OWN[table]}


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
