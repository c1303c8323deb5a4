"""What is stored of results, read back file by file: a Parquet table, a run's row, a journal."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedray import __version__
from fedray.confusion import BestAndFinal, unpack
from fedray.errors import BadInputError, DamagedError
from fedray.tables import (
    BY_ROUND,
    IN_JOURNAL,
    OWN,
    SCHEMAS,
    Columns,
    join_batches,
    summarise,
    to_batch,
    to_columns,
    to_rows,
)


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


CHECKSUM = b',"crc32":'


def encode_line(line: Mapping[str, Any]) -> bytes:
    """A line of a journal: JSON, with a checksum of all before it, since a flipped digit is JSON too."""
    text = json.dumps(line, separators=(",", ":")).encode().removesuffix(b"}")
    return text + CHECKSUM + str(zlib.crc32(text)).encode() + b"}\n"


def decode_line(text: bytes) -> dict[str, Any]:
    """The inverse of `encode_line`, also for a line without a checksum; ValueError where it does not match."""
    line = dict(json.loads(text))
    checksum = line.pop("crc32", None)
    if checksum is not None and checksum != zlib.crc32(text.rpartition(CHECKSUM)[0]):
        raise ValueError("a line does not match its checksum")
    return line


Journal = tuple[dict[str, Any], dict[int, dict[str, Columns]]]
"""The header (run, grouping, and the columns of runs), and by round the columns of IN_JOURNAL."""


def read_journal(path: Path) -> Journal | None:
    """A journal without what a kill cut short at its end, of a round recorded twice the later one; None if it is gone.

    Its rounds are in order. DamagedError where anything but the last line is damaged, BadInputError where its columns
    are others.
    """
    try:
        check_file(path)
        texts = path.read_bytes().rstrip(b"\n").split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"the journal {path} cannot be read: {error.strerror or error}") from None
    if len(texts) > 1 and not _is_json(texts[-1]):
        texts.pop()
    try:
        header, *lines = map(decode_line, texts)
        whole = all(line.keys() == set(IN_JOURNAL) for line in lines)
        if not whole or header.keys() != {"run", "grouping", "runs"}:
            raise ValueError("it lacks a table")
        if header["run"] != path.stem:
            raise ValueError(f"it is that of {str(header['run'])[:100]}")
        of_lines = ((names, line[table]) for line in lines for table, names in IN_JOURNAL.items())
        parts = chain([(tuple(OWN["runs"]), header["runs"])], of_lines)
        other = next(((list(part), names) for names, part in parts if part.keys() != set(names)), None)
        version = header["runs"].get("fedray_version", [None])[0]
        if not other:
            by_round = {check_line(line): line for line in lines}
            if missing := set(range(1, max(by_round, default=0))) - by_round.keys():
                raise ValueError(f"it lacks round {min(missing)}")
            for table in BY_ROUND:
                to_batch(table, join_lines(table, by_round.values()))
            if len(to_batch("runs", header["runs"])) != 1:
                raise ValueError("its header has not one run")
    except UNREADABLE as error:
        raise DamagedError(f"the journal {path} is damaged: {error}") from None
    if other:
        raise _other_version(path, version, *other)
    return header, dict(sorted(by_round.items()))


UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, pa.ArrowException)
"""What JSON of another form than a journal's may raise."""


def check_line(line: dict[str, Columns]) -> int:
    """The round that a line of a journal is about; ValueError where its columns do not go together."""
    (t,) = line["rounds"]["round"]
    if type(t) is not int or t < 1:
        raise ValueError(f"it has a round {t!r}")
    for table in IN_JOURNAL:
        heights = {len(values) if isinstance(values, list) else -1 for values in line[table].values()}
        if len(heights) > 1 or -1 in heights or any(each != t for each in line[table]["round"]):
            raise ValueError(f"the columns of {table} in round {t} do not go together")
    to_batch("confusion", unpack(line["confusion"]))
    return t


def journal_tables(path: Path, journal: Journal, row: pa.Table | None) -> dict[str, pa.Table]:
    """The tables of a run that its journal holds, `row` being what else is known of the run.

    DamagedError where a value is of the wrong type; `path` is the journal's, for its sentence.
    """
    header, lines = journal
    try:
        batches = {table: to_batch(table, join_lines(table, lines.values())) for table in BY_ROUND}
        confusion = BestAndFinal()
        for line in lines.values():
            confusion.show(line)
        batches["confusion"] = to_batch("confusion", confusion.columns)
        known = to_rows(header["runs"])[0] if row is None else row.select(list(OWN["runs"])).to_pylist()[0]
        totals = summarise(to_rows(join_lines("rounds", lines.values())))
        batches["runs"] = to_batch("runs", to_columns("runs", [known | totals]))
        return {
            table: join_batches(table, [each], header["run"], header["grouping"]) for table, each in batches.items()
        }
    except UNREADABLE as error:
        raise DamagedError(f"the journal {path} is damaged: {error}") from None


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


def join_lines(table: str, lines: Iterable[Mapping[str, Columns]]) -> Columns:
    """One table's columns of journal lines, one after another; a line need not have the table."""
    parts = [line[table] for line in lines if table in line]
    return {name: list(chain.from_iterable(part[name] for part in parts)) for name in OWN[table]}


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
