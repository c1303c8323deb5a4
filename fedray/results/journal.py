"""A run's journal: one line of JSON a round, each with a checksum."""

import json
import zlib
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fedray.core.errors import DamagedError
from fedray.results.confusion_counts import BestAndFinal, unpack
from fedray.results.files import check_file
from fedray.results.schema import (
    BY_ROUND,
    GROUPING,
    OWN,
    PACKED,
    Columns,
    join_batches,
    summarise,
    to_batch,
    to_columns,
    to_rows,
)

CHECKSUM = b',"crc32":'


def encode_line(line: Mapping[str, Any]) -> bytes:
    """A line of a journal: JSON that ends in a checksum of all before it, since a flipped digit is JSON, too."""
    text = json.dumps(line, separators=(",", ":")).encode().removesuffix(b"}")
    return text + CHECKSUM + str(zlib.crc32(text)).encode() + b"}\n"


def decode_line(text: bytes) -> dict[str, Any]:
    """The inverse of `encode_line`, also for a line without a checksum; ValueError where it does not match."""
    line = dict(json.loads(text))
    checksum = line.pop("crc32", None)
    if checksum is not None and checksum != zlib.crc32(text.rpartition(CHECKSUM)[0]):
        raise ValueError("a line does not match its checksum")
    return line


class Journal(NamedTuple):
    """A journal's content, as this version knows it."""

    header: dict[str, Any]
    """`run`, `grouping`, and the columns of `runs`."""
    lines: dict[int, dict[str, Columns]]
    """By round, the columns of the tables in IN_JOURNAL."""
    newer: tuple[str, ...]
    """The tables and columns that this version lacks, as `rounds.seconds`. They were left out."""


IN_JOURNAL = (*BY_ROUND, "confusion")
"""The tables that a line of the journal has its round's rows of."""
HEADER = ("run", "grouping", "runs")


def read_journal(path: Path) -> Journal | None:
    """The content of a journal, with its rounds in order; None where there is no such file.

    A last line that a kill cut short is left out. Of a round that was recorded twice the later line counts. A column
    that an older version did not write is null, and a table is without rows. DamagedError where anything but the last
    line is damaged.
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
        if not (set(HEADER) <= header.keys() and all("rounds" in line for line in lines)):
            raise ValueError("it lacks a table")
        if header["run"] != path.stem:
            raise ValueError(f"it is that of {str(header['run'])[:100]}")
        newer = unknown_names(header, lines)
        header = {**{name: header[name] for name in HEADER}, "runs": made_whole(header["runs"], OWN["runs"])}
        header["grouping"] = {name: header["grouping"].get(name) for name in GROUPING}
        whole = [{table: made_whole(line.get(table, {}), columns_of(table)) for table in IN_JOURNAL} for line in lines]
        by_round = {check_line(line): line for line in whole}
        if missing := set(range(1, max(by_round, default=0))) - by_round.keys():
            raise ValueError(f"it lacks round {min(missing)}")
        for table in BY_ROUND:
            to_batch(table, join_lines(table, by_round.values()))
        if len(to_batch("runs", header["runs"])) != 1:
            raise ValueError("its header has not one run")
    except UNREADABLE as error:
        raise DamagedError(f"the journal {path} is damaged: {error}") from None
    return Journal(header, dict(sorted(by_round.items())), newer)


def columns_of(table: str) -> Collection[str]:
    """The columns that a line of the journal has of a table."""
    return PACKED if table == "confusion" else OWN[table]


def unknown_names(header: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The tables and columns in a journal that this version lacks."""
    found = {name: None for name in header if name not in HEADER}
    found |= {f"grouping.{name}": None for name in header["grouping"].keys() - GROUPING.keys()}
    found |= {f"runs.{name}": None for name in header["runs"].keys() - OWN["runs"].keys()}
    for line in lines:
        for table, columns in line.items():
            if table in IN_JOURNAL:
                found |= {f"{table}.{name}": None for name in columns.keys() - columns_of(table)}
            else:
                found[table] = None
    return tuple(found)


def made_whole(columns: Columns, names: Iterable[str]) -> Columns:
    """The columns of these names, null where they are absent."""
    height = len(next(iter(columns.values()), ()))
    return {name: columns[name] if name in columns else [None] * height for name in names}


UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, pa.ArrowException)
"""The errors that JSON of another form than a journal's may raise."""


def check_line(line: dict[str, Columns]) -> int:
    """The round of a journal's line; ValueError where its columns do not go together."""
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
    """The tables of a run by its journal. Of `row`, its row in Parquet, come the columns that no round changes.

    DamagedError where a value is of the wrong type; its sentence names `path`, the journal.
    """
    header, lines, _ = journal
    try:
        batches = {table: to_batch(table, join_lines(table, lines.values())) for table in BY_ROUND}
        known = to_rows(header["runs"])[0] if row is None else row.select(list(OWN["runs"])).to_pylist()[0]
        confusion = BestAndFinal(known.get("judged_by"))
        for line in lines.values():
            confusion.show(line)
        batches["confusion"] = to_batch("confusion", confusion.columns)
        totals = summarise(to_rows(join_lines("rounds", lines.values())), known.get("judged_by"))
        batches["runs"] = to_batch("runs", to_columns("runs", [known | totals]))
        return {
            table: join_batches(table, [each], header["run"], header["grouping"]) for table, each in batches.items()
        }
    except UNREADABLE as error:
        raise DamagedError(f"the journal {path} is damaged: {error}") from None


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
