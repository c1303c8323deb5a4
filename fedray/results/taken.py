"""The rounds of a run that has ended, read from its tables as lines of a journal, for a longer run to start with."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fedray.core.errors import DamagedError
from fedray.results.confusion_counts import COUNTS, pack
from fedray.results.files import read_parquet
from fedray.results.journal import IN_JOURNAL
from fedray.results.schema import OWN, Columns, to_columns

Line = dict[str, Columns]


def lines_of(folder: Path, run: str, rounds: int) -> list[Line]:
    """A line for each of the run's rounds 1..rounds, which are all it has.

    The confusion counts are those of its best and of its last round, as its table has no others. DamagedError where a
    table is missing or damaged.
    """
    lines: list[Line] = [{} for _ in range(rounds)]
    for table in IN_JOURNAL:
        path = folder / table / f"{run}.parquet"
        if not path.exists():
            raise DamagedError(f"the results file {path} is missing")
        for line, columns in zip(lines, by_round(table, read_parquet(path, table), rounds, path), strict=True):
            line[table] = columns
    return lines


def by_round(table: str, found: pa.Table, rounds: int, path: Path) -> list[Columns]:
    """The rows of a table's file at `path` as a journal has them, for each round 1..rounds."""
    numbers = np.array(found["round"].to_pylist(), dtype=np.int64)
    if table == "rounds" and numbers.tolist() != list(range(1, rounds + 1)):
        raise DamagedError(f"the results file {path} has not the rounds 1 to {rounds}")
    if numbers.size and not 1 <= numbers.min() <= numbers.max() <= rounds:
        raise DamagedError(f"the results file {path} has rounds beyond the {rounds} of its run")
    order = np.argsort(numbers, kind="stable")
    columns = to_columns(table, found.select(list(OWN[table])).take(order).to_pydict())
    ends = np.searchsorted(numbers[order], np.arange(1, rounds + 2)).tolist()
    parts = [{name: values[first:last] for name, values in columns.items()} for first, last in pairwise(ends)]
    return [packed(part) for part in parts] if table == "confusion" else parts


def packed(counts: dict[str, list[Any]]) -> Columns:
    """The counts of a round, of which the table has two copies where it is both the best and the last one."""
    first = counts["which"][:1]
    rows = [place for place, which in enumerate(counts["which"]) if [which] == first]
    return pack({name: [counts[name][place] for place in rows] for name in COUNTS})
