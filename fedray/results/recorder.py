"""The recorder of a run: a journal while it goes, and Parquet tables for pandas. No other file writes tables.

A round goes to the journal first, as one line. So what was reported survives `kill -9`. The line is forced to disk once
a second at most, since that takes a part of a millisecond; a crash of the machine costs no more than that second.
Parquet cannot be appended to, so the tables are rewritten every few seconds. The row in `runs` is the commit point.
Once it has a final status, the tables are complete and the journal goes. Until then the journal is the truth, and
`load` reads it. The population can be large and never changes. It is written before the journal, so that it is there
wherever a journal is.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedray.core.atomic import remove_stale, replacing, sync, writing
from fedray.core.errors import START_OVER, BadInputError, DamagedError
from fedray.core.lock import hold
from fedray.results.confusion_counts import BestAndFinal, pack
from fedray.results.files import check_columns, lock_path, other_version, read_parquet, read_row
from fedray.results.journal import IN_JOURNAL, Journal, encode_line, join_lines, read_journal
from fedray.results.schema import (
    BY_ROUND,
    FINAL_STATUSES,
    GROUPING,
    JUDGED_BY,
    OWN,
    PER_RUN,
    STATUSES,
    STRING,
    Columns,
    Content,
    join_batches,
    plain,
    summarise,
    to_batch,
    to_columns,
    to_rows,
)

Row = Mapping[str, Any]
SYNC_SECONDS = 1.0


class Recorder:
    """Records one run: `start` once, `round` after every round, `finish` once. Each is durable when it returns.

    `grouping` gives every grouping column, and `run_row` the columns of `runs` that are known at the start.
    """

    def __init__(
        self, root: str | Path, name: str, run: str, grouping: Row, run_row: Row, *, flush_seconds: float = 5.0
    ) -> None:
        if grouping.keys() != GROUPING.keys():
            raise ValueError(f"the grouping columns differ by {sorted(grouping.keys() ^ GROUPING.keys())}")
        self.rounds: list[dict[str, Any]] = []
        """The rows of `rounds` so far, kept ones included. The last one is whole; others have the columns of JUDGED_BY.

        A time is milliseconds since 1970 UTC.
        """
        self._folder, self._run, self._grouping = Path(root) / name, run, plain(grouping)
        self._row = {"started_at": datetime.now(UTC), **run_row, "status": "running"}
        self._lines: list[dict[str, Any]] = []
        self._later: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}  # the line of the last round
        self._before: dict[int, Columns] = {}  # the events of rounds that will be recorded again
        self._new: list[dict[str, Columns]] = []  # lines that are in the journal and not yet in the tables
        self._tables = {table: to_batch(table, ()) for table in BY_ROUND}
        self._confusion = BestAndFinal(self._row.get("judged_by"))
        self._flush_seconds = flush_seconds
        self._next_flush = self._next_sync = 0.0
        check_columns(self._partition_path, "partitions")

    @classmethod
    def resume(
        cls,
        root: str | Path,
        name: str,
        run: str,
        grouping: Row,
        run_row: Row,
        *,
        keep_rounds: int,
        flush_seconds: float = 5.0,
        taken: Sequence[dict[str, Columns]] = (),
    ) -> "Recorder":
        """A recorder that goes on after `keep_rounds` rounds of the run's journal, or after those `taken`.

        Later rounds, reported before a kill, stay in the journal until they are recorded again. The run keeps its first
        `started_at`. BadInputError where the journal lacks one of the rounds to keep. `taken` are all of them, as lines
        of a journal (taken.py); the run's own journal is then not asked for them.
        """
        recorder = cls(root, name, run, grouping, run_row, flush_seconds=flush_seconds)
        try:
            header, lines, newer = read_journal(recorder._journal) or Journal({}, {}, ())
        except DamagedError as error:
            raise DamagedError(f"{error}; {START_OVER}") from None
        if newer:  # it would be lost
            raise other_version(recorder._journal, header["runs"]["fedray_version"][0], more=newer)
        kept = list(taken) or [line for t, line in lines.items() if t <= keep_rounds]
        if len(kept) < keep_rounds:
            raise BadInputError(
                f"the journal {recorder._journal} holds {len(kept)} of the {keep_rounds} rounds before the checkpoint; "
                f"{START_OVER}"
            )
        if header:
            recorder._row["started_at"] = header["runs"]["started_at"][0]
            recorder._row["taken_from"] = header["runs"]["taken_from"][0] if kept else None
        recorder._lines, recorder._later = kept, [line for t, line in lines.items() if t > keep_rounds]
        recorder._before = {t: line["events"] for t, line in lines.items() if t > keep_rounds}
        return recorder

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The whole rows of `rounds` that it will start with; none once it has started."""
        return to_rows(join_lines("rounds", self._lines))

    def start(self, population: Content, partition: Content, **run_columns: Any) -> None:
        """Make the folders, the journal and all tables, which of a fresh run have no rounds. The run is now `running`.

        The files of an earlier attempt at this run are replaced, its rounds by the journal and at once. The partition
        is given without its `partition_id`, and written where no other run has written it. It may be empty when
        `run_row` names no partition_id. `run_columns` are columns of `runs` that only now are known.
        """
        with writing(self._folder):
            self._start(population, partition, **run_columns)

    def _start(self, population: Content, partition: Content, **run_columns: Any) -> None:
        self._row |= run_columns
        members, runs = to_batch("population", population), self._run_columns()
        to_batch("runs", runs)  # a wrong value raises before anything is written
        for folder in (*OWN, "journal"):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        for path in (self._journal, *(self._path(table) for table in PER_RUN)):
            remove_stale(path)
        for line in self._lines:
            self._keep(line)
        runs = self._run_columns()
        header: dict[str, Any] = {"run": self._run, "grouping": self._grouping, "runs": runs}
        self._write("population", members)
        with replacing(self._journal) as temporary:
            temporary.write_bytes(b"".join(encode_line(line) for line in (header, *self._lines, *self._later)))
        self._lines, self._later = [], []
        self._write("runs", to_batch("runs", runs))
        self._write_partition(partition)
        self._flush()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for the length of a `with`; BusyError where another process or recorder holds it."""
        with lock_of(self._folder, self._run):
            yield

    def round(
        self,
        round_row: Row,
        clients: Content,
        metrics: Content = (),
        evaluations: Content = (),
        confusion: Content = (),
        events: Content = (),
    ) -> None:
        """Record one round: it is on disk when this returns, and in Parquet some seconds later.

        Only the row need say which round. A value of a wrong type raises before anything is written.
        """
        given: dict[str, Content] = {"rounds": [round_row], "clients": clients, "metrics": metrics, "events": events}
        given |= {"evaluations": evaluations, "confusion": confusion}
        line = {table: to_columns(table, given.get(table, ())) for table in IN_JOURNAL}
        for columns in line.values():
            columns["round"] = [round_row["round"]] * len(next(iter(columns.values())))
        if before := self._before.pop(round_row["round"], None):
            line["events"] = join_lines("events", [{"events": before}, line])
        for table, columns in line.items():
            if columns["round"]:
                to_batch(table, columns)  # a wrong value raises before anything is written
        line["confusion"] = pack(line["confusion"])
        with writing(self._folder):
            self._append(encode_line(line))
            self._keep(line)
            if time.monotonic() >= self._next_flush:
                self._flush()

    def add_events(self, events: Content) -> None:
        """Record events after the last recorded round as part of that round; without a round nothing is recorded."""
        added = to_columns("events", events)
        if self._last and added["kind"]:
            added["round"] = self._last["rounds"]["round"] * len(added["kind"])
            self._last = {**self._last, "events": join_lines("events", [self._last, {"events": added}])}
            with writing(self._folder):
                self._append(encode_line(self._last))
                self._new.append({"events": added})

    def _append(self, line: bytes) -> None:
        """Put a line at the end of the journal, whole or not at all."""
        # Not "ab": a journal that somebody removed must not come back without its header.
        with self._journal.open("r+b", buffering=0) as journal:
            end = journal.seek(0, os.SEEK_END)
            try:
                left = memoryview(line)
                while left:
                    left = left[journal.write(left) :]  # from here on it outlives this process, however that ends
                if time.monotonic() >= self._next_sync:
                    os.fsync(journal.fileno())  # and a crash of the machine
                    self._next_sync = time.monotonic() + SYNC_SECONDS
            except OSError:  # the disk is full; nothing may come behind half a line
                with suppress(OSError):
                    journal.truncate(end)
                raise

    def sync(self) -> None:
        """Force the journal to disk: a checkpoint that outlives a crash of the machine needs its rounds there."""
        with writing(self._folder):
            sync(self._journal)

    def finish(self, status: str, error: str | None = None, **run_columns: Any) -> None:
        """Write all tables, the run's row last. A final status ends the run and its journal; another can be resumed.

        `run_columns` are further columns of `runs`; accuracies, `rounds_done` and `seconds` come from the rounds.
        """
        if status not in STATUSES[1:]:
            raise ValueError(f"a run ends with one of {STATUSES[1:]}, not with {status!r}")
        self._row |= {"finished_at": datetime.now(UTC), **run_columns, "status": status, "error": error}
        with writing(self._folder):
            self._write_tables()
            if status in FINAL_STATUSES:
                self._journal.unlink()

    @property
    def _journal(self) -> Path:
        return self._folder / "journal" / f"{self._run}.jsonl"

    def _path(self, table: str) -> Path:
        return self._folder / table / f"{self._run}.parquet"

    def _run_columns(self) -> Columns:
        return to_columns("runs", [self._row | summarise(self.rounds, self._row.get("judged_by"))])

    def _keep(self, line: dict[str, Columns]) -> None:
        """Have a line that is in the journal be in the tables from their next writing on."""
        self._last = line
        self._new.append(line)  # as Arrow a line takes twenty times the memory
        self._confusion.show(line)
        if self.rounds:
            self.rounds[-1] = {name: self.rounds[-1][name] for name in JUDGED_BY}
        self.rounds += to_rows(line["rounds"])

    def _flush(self) -> None:
        began = time.monotonic()
        self._write_tables()
        ended = time.monotonic()
        self._next_flush = ended + max(self._flush_seconds, 10 * (ended - began))  # at most a tenth of the run's time

    def _write_tables(self) -> None:
        row = to_batch("runs", self._run_columns())  # first, so that a wrong value raises before anything is written
        for table, old in self._tables.items():
            new = to_batch(table, join_lines(table, self._new))
            self._tables[table] = pa.concat_tables([old, new]).combine_chunks()
        self._new = []
        for table, whole in self._tables.items():
            self._write(table, whole)
        self._write("confusion", to_batch("confusion", self._confusion.columns))
        pa.default_memory_pool().release_unused()  # of what was made only to be written
        self._write("runs", row)

    def _write(self, table: str, *batches: pa.Table) -> None:
        _write_parquet(self._path(table), join_batches(table, list(batches), self._run, self._grouping))

    @property
    def _partition_path(self) -> Path:
        return self._folder / "partitions" / f"{self._row.get('partition_id')}.parquet"

    def _write_partition(self, partition: Content) -> None:
        partition_id = self._row.get("partition_id")
        path = self._partition_path
        if partition_id is not None and not _is_whole(path):
            batch = to_batch("partitions", partition)
            named = pa.repeat(pa.scalar(partition_id, STRING), len(batch))
            _write_parquet(path, batch.set_column(0, "partition_id", named))


def _is_whole(path: Path) -> bool:
    """Tell whether this is a file of the partitions table that can be read."""
    try:
        read_parquet(path, "partitions")
    except DamagedError:
        return False
    return True


def lock_of(folder: Path, run: str) -> AbstractContextManager[None]:
    """Hold a run of the results `folder` for the length of a `with`; BusyError where somebody else holds it."""
    return hold(lock_path(folder, run), f"run {run} in {folder} is being recorded by another process")


def mark(root: str | Path, name: str, run: str, status: str, error: str, known: Row) -> None:
    """Give a run that nobody records now another status, and the reason.

    `known` has the grouping columns and those of the Recorder's `run_row`, for a run that has no row yet.
    """
    path = Path(root) / name / "runs" / f"{run}.parquet"
    new = {"started_at": datetime.now(UTC), **known, **summarise([])}
    row = read_row(path).to_pylist()[0] if path.exists() else new
    row |= {"finished_at": datetime.now(UTC), "status": status, "error": error}
    columns = to_columns("runs", [{column: row.get(column) for column in OWN["runs"]}])
    grouping = plain({column: row.get(column) for column in GROUPING})
    with writing(path.parents[1]):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_parquet(path, join_batches("runs", [to_batch("runs", columns)], run, grouping))


def keep_file(path: Path, folder: Path) -> None:
    """Keep a copy of the settings file beside the tables. Its header is the question of the experiment."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "experiment.toml") as temporary:
            temporary.write_bytes(path.read_bytes())


def drop_journal(root: str | Path, name: str, run: str) -> None:
    """Remove the journal that a kill at the very end of a run left: its tables are complete."""
    Path(root, name, "journal", f"{run}.jsonl").unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raise BadInputError, in one sentence, where the folder `path` cannot be made or written; create nothing."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(Path(path, "checkpoints", "x" * 200))  # a path too long, or with a null character
        nearest = Path(path).absolute()
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        for folder in (nearest, *(Path(path, table) for table in (*OWN, "journal", "checkpoints", "models"))):
            if os.path.lexists(folder) and not folder.is_dir():
                raise BadInputError(f"results cannot be written to {path}: {folder} is not a folder")
        with tempfile.TemporaryFile(dir=nearest):  # os.access says yes to root, even in /proc
            pass
    except BadInputError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInputError(f"results cannot be written to {str(path)[:200]!r}: no file can be made ({why})") from None


def _write_parquet(path: Path, table: pa.Table) -> None:
    """Write a small file: without statistics and a second copy of the schema, which outweigh the rows of a short run.

    With zstd, which has a context for every column, a file is 2 to 10 % smaller and takes two to three times as long to
    write and to read.
    """
    words = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="snappy",
            use_dictionary=words,
            write_statistics=False,
            store_schema=False,
            write_page_checksum=True,
        )
