"""A run's journal: one line of JSON a round, each with a checksum."""

import json
import zlib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedray.core.errors import DamagedError
from fedray.results.confusion_counts import BestAndFinal, unpack
from fedray.results.files import _other_version, check_file
from fedray.results.schema import (
    BY_ROUND,
    IN_JOURNAL,
    OWN,
    Columns,
    join_batches,
    summarise,
    to_batch,
    to_columns,
    to_rows,
)

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
