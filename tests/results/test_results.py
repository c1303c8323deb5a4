"""Results: what was recorded is on disk at once, survives a kill at any moment, and reads as plain tables."""

import base64
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from pydantic import ValidationError

from fedray import __version__
from fedray.core.errors import BadInputError
from fedray.core.newer import NEWER
from fedray.results import FINAL_STATUSES, SCHEMAS, DamagedResultsWarning, NewerResultsWarning, Results, load
from fedray.results.confusion_counts import confusion_columns, pack, unpack
from fedray.results.folder import check_version, status
from fedray.results.journal import IN_JOURNAL, decode_line, encode_line, read_journal
from fedray.results.output import Output
from fedray.results.recorder import Recorder, check_writable
from fedray.results.schema import GROUPING, OWN, PER_RUN

SETTINGS = {"rounds": 100, "seed": 1, "algorithm": {"name": "fedavg", "lr": 0.1, "layers": [1, 2]}}
RUN_ROW = {"settings": json.dumps(SETTINGS), "rounds_planned": 100, "partition_id": "p"}
POPULATION = [
    {"client": c, "actor": f"a{c}", "node": "n", "pid": c, "num_cpus": 0.1, "num_gpus": 0.0, "num_examples": 500}
    for c in range(20)
]
PARTITION = [{"client": c, "label": c % 10, "label_name": "cat", "count": 50} for c in range(20)]
STARTED_AT = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def grouping(**changes: Any) -> dict[str, Any]:
    words = dict.fromkeys(("algorithm", "dataset", "data_format", "model", "partition", "weighting"), "x")
    counts = {"clients": 20, "cohort": 3, "epochs": 5, "local_steps": None, "batch_size": 10, "seed": 1}
    return {**words, **counts, "alpha": None, "lr": 0.1, "momentum": 0.9, "server_lr": 1.0, **changes}


def round_rows(t: int, cohort: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of round t, a function of t alone, with numbers as hard to compress as real ones."""
    chance = np.random.default_rng(t)
    floats = ("test_loss", "test_accuracy", "train_loss", "update_norm", "seconds", "seconds_train")
    clients = [
        {
            "client": client,
            "num_examples": int(chance.integers(1000)),
            "steps": np.int64(50),
            **{name: chance.random() for name in ("train_loss", "update_norm", "seconds")},
            "status": "ok",
            "actor": f"a{client}",
            "node": "n",
            "pid": 1000 + client,
        }
        for client in chance.choice(20, cohort, replace=False)
    ]
    row = {"round": t, "round_lr": np.float32(0.1), "cohort_size": cohort, "num_examples": 1500, "bytes_up": 1 << 40}
    row |= {name: chance.random() for name in floats} | {"finished_at": STARTED_AT}
    return row, clients, [{"name": "drift", "value": chance.random()}]


def confusion_of(t: int) -> dict[str, list[Any]]:
    """The counts after round t of the splits, of three classes; every third round is not evaluated."""
    counts = np.random.default_rng(t).integers(0, 3, (2, 3, 3)) * (t % 3 > 0)
    return confusion_columns({"test": counts[0], "validation": counts[1]})


def recorder(
    root: Path, run: str = "run", *, keep: int | None = None, seconds: float = 60.0, **changes: Any
) -> Recorder:
    """A started recorder: a fresh one, or one that resumed after `keep` rounds."""
    what = (root, "name", run, grouping(**changes), RUN_ROW)
    if keep is None:
        made = Recorder(*what, flush_seconds=seconds)
    else:
        made = Recorder.resume(*what, keep_rounds=keep, flush_seconds=seconds)
    made.start(POPULATION, PARTITION)
    return made


def record(made: Recorder, rounds: range) -> Recorder:
    for t in rounds:
        made.round(*round_rows(t), confusion=confusion_of(t))
    return made


def journal_of(root: Path, run: str = "run") -> Path:
    return root / "name" / "journal" / f"{run}.jsonl"


def assert_holds_rounds(root: Path, rounds: int) -> None:
    """Every table of the run holds exactly the rounds 1..rounds, with the values that were recorded."""
    tables = load("name", root)
    assert tables.rounds["round"].tolist() == list(range(1, rounds + 1))
    expected = [round_rows(t) for t in range(1, rounds + 1)]
    assert tables.rounds["test_loss"].tolist() == [row["test_loss"] for row, _, _ in expected]
    assert tables.clients["seconds"].tolist() == [c["seconds"] for _, clients, _ in expected for c in clients]
    assert tables.metrics["value"].tolist() == [m["value"] for _, _, metrics in expected for m in metrics]
    assert tables.runs["rounds_done"].tolist() == [rounds]
    assert len(tables.population) == 20
    evaluated = [t for t in range(1, rounds + 1) if t % 3]
    best = sorted(evaluated, key=lambda t: expected[t - 1][0]["test_accuracy"])[-1:]
    kept = [("best", t) for t in best] + [("final", t) for t in evaluated[-1:]]
    counts = [(which, t, *row) for which, t in kept for row in zip(*confusion_of(t).values(), strict=True)]
    assert sorted(tables.confusion[list(OWN["confusion"])].itertuples(index=False, name=None)) == sorted(counts)


# Tables


def test_a_journal_and_parquet_hold_the_same(tmp_path: Path) -> None:
    made = record(recorder(tmp_path), range(1, 6))
    with made.locked():
        from_journal = load("name", tmp_path)
    made.finish("finished")
    from_parquet = load("name", tmp_path)
    assert not journal_of(tmp_path).exists()
    for table in ("rounds", "clients", "population", "metrics", "confusion", "partitions"):
        assert_frame_equal(getattr(from_journal, table), getattr(from_parquet, table))
    assert len(from_parquet.confusion) > 0
    assert from_journal.runs["status"].item() == "running"
    assert from_parquet.runs["status"].item() == "finished"
    assert_holds_rounds(tmp_path, 5)


def test_pandas_reads_a_folder_of_runs_with_differing_settings(tmp_path: Path) -> None:
    record(recorder(tmp_path, "a", alpha=None, local_steps=None), range(1, 4)).finish("finished")
    record(recorder(tmp_path, "b", alpha=0.3, epochs=None, local_steps=7), range(1, 3)).finish("diverged")
    recorder(tmp_path, "c").finish("failed", "no round at all")
    bare = recorder(tmp_path, "d")
    bare.round({"round": 1}, [])
    bare.finish("finished")
    loaded = load("name", tmp_path)
    for table, schema in SCHEMAS.items():
        frame = pd.read_parquet(tmp_path / "name" / table)
        assert list(frame.columns) == schema.names
        if table != "runs":
            assert_frame_equal(frame, getattr(loaded, table))
        for path in (tmp_path / "name" / table).iterdir():
            assert pq.read_schema(path).equals(schema)
    rounds = pd.read_parquet(tmp_path / "name" / "rounds")
    assert rounds.groupby(["run", "alpha"], dropna=False).size().tolist() == [3, 2, 1]
    assert rounds["round"].dtype == np.int32
    assert rounds["finished_at"][0] == STARTED_AT
    assert rounds["bytes_up"][0] == 1 << 40
    assert rounds["test_loss"].isna().tolist() == [False] * 5 + [True]


def test_nan_and_infinity_survive_and_are_not_null(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    values = [math.nan, math.inf, -math.inf, None, np.float32(0.1), 5e-324]
    made.round({"round": 1, "test_accuracy": math.nan}, [], [{"name": "v", "value": value} for value in values])
    made.round({"round": 2, "test_accuracy": 0.5}, [])
    made.finish("interrupted")
    recorder(tmp_path, keep=2).finish("finished")  # through the journal, then through Parquet
    found = pq.read_table(tmp_path / "name" / "metrics" / "run.parquet")["value"].to_pylist()
    assert repr(found) == repr([math.nan, math.inf, -math.inf, None, float(np.float32(0.1)), 5e-324])
    assert load("name", tmp_path).runs["best_round"].item() == 2


def test_the_run_row_sums_up_its_rounds(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    for t, accuracy in enumerate([0.1, 0.7, 0.7, 0.4, None], start=1):
        made.round({"round": t, "test_accuracy": accuracy, "test_loss": accuracy, "seconds": 2.5}, [])
    made.finish("reached_target", model_fingerprint="f")
    run = load("name", tmp_path).runs.iloc[0]
    assert (run["rounds_done"], run["best_test_accuracy"], run["best_round"]) == (5, 0.7, 2)
    assert (run["final_test_accuracy"], run["final_test_loss"]) == (0.4, 0.4)
    assert (run["status"], run["seconds"], run["model_fingerprint"]) == ("reached_target", 12.5, "f")
    assert run["started_at"] <= run["finished_at"]


def test_the_confusion_table_is_of_the_best_and_the_last_evaluation(tmp_path: Path) -> None:
    """The best is the first of equals, by the validation split where there is one; only counts above 0 have a row."""
    counts = {"split": ["test", "test"], "label": [0, 2], "predicted": [1, 2]}
    for name, by in (("a", "test_accuracy"), ("b", "validation_accuracy")):
        made = recorder(tmp_path, name)
        for t, accuracy in enumerate([0.1, 0.7, 0.7, math.nan, 0.4, None], start=1):
            row = {"round": t, "test_accuracy": accuracy if by == "test_accuracy" or accuracy is None else 1 / t}
            made.round(row | {by: accuracy}, [], confusion={} if accuracy is None else counts | {"count": [t, 10 * t]})
        made.finish("finished")
        found = load("name", tmp_path, name).confusion[list(OWN["confusion"])]
        assert found.to_numpy().tolist() == [
            [which, t, "test", label, predicted, count]
            for which, t in (("best", 2), ("final", 5))
            for label, predicted, count in ((0, 1, t), (2, 2, 10 * t))
        ]
    found = confusion_columns({"validation": np.array([[3, 0], [1, 0]])})
    assert list(found.values()) == [["validation", "validation"], [0, 1], [0, 0], [3, 1]]


@pytest.mark.parametrize("classes", [1, 3, 100, 1000])
def test_packed_counts_are_the_same_counts_in_a_tenth_of_the_bytes(classes: int) -> None:
    chance = np.random.default_rng(classes)
    columns: dict[str, list[Any]] = {"split": [], "label": [], "predicted": [], "count": []}
    for split in ("test", "validation"):
        cells = np.unique(chance.integers(0, classes**2, min(5000, classes**2)))
        counts = chance.integers(1, [2, 2**40][classes == 3], len(cells), endpoint=True)
        for name, values in zip(columns, ([split] * len(cells), *divmod(cells, classes), counts), strict=True):
            columns[name] += list(values) if name == "split" else values.tolist()
    whole = {"round": [7] * len(columns["split"]), **columns}
    packed = pack(whole)
    assert unpack(packed) == whole
    assert packed["round"] == [7, 7] and packed["split"] == ["test", "validation"]
    if classes >= 100:
        assert len(json.dumps(packed)) < len(json.dumps(whole)) / 10
    assert unpack(pack({name: [] for name in whole})) == {name: [] for name in whole}


@pytest.mark.parametrize("numbers", [[], [3, 1], [0, 1, 1], [3, -1, 1], [2, 2**40, 1], [2**40, 1, 1]])
def test_what_no_counts_were_packed_into_is_refused(numbers: list[int]) -> None:
    shuffled = np.array(numbers, "<i8").view(np.uint8).reshape(-1, 8).T.tobytes()
    text = base64.b64encode(zlib.compress(shuffled)).decode()
    for each in (text, text[:-8], "?", "", 7):
        with pytest.raises((ValueError, TypeError)):
            unpack({"round": [1], "split": ["test"], "counts": [each]})


def test_the_best_round_is_the_one_that_the_run_is_judged_by(tmp_path: Path) -> None:
    """With a validation split the test accuracy of its best round, not the best test accuracy."""
    made = recorder(tmp_path)
    for t, (validation, test) in enumerate([(0.2, 0.9), (0.6, 0.5), (0.6, 0.7), (None, None)], start=1):
        made.round({"round": t, "test_accuracy": test, "validation_accuracy": validation, "client_accuracy": test}, [])
    made.finish("finished")
    run = load("name", tmp_path).runs.iloc[0]
    assert (run["best_round"], run["best_test_accuracy"]) == (2, 0.5)


def as_columns(rows: list[dict[str, Any]], table: str) -> dict[str, Any]:
    """NumPy arrays of the numbers and lists of the words, those without a value left out."""
    columns = {name: [row[name] for row in rows] for name in OWN[table] if name in rows[0]}
    return {name: values if isinstance(values[0], str) else np.array(values) for name, values in columns.items()}


def test_columns_make_the_same_files_as_rows(tmp_path: Path) -> None:
    population = [{name: value for name, value in row.items() if name != "pid"} for row in POPULATION]
    for way in ("rows", "columns"):
        made = Recorder(tmp_path / way, "name", "run", grouping(), RUN_ROW)
        if way == "rows":
            made.start(iter(population), iter(PARTITION))
        else:
            made.start(as_columns(population, "population"), as_columns(PARTITION, "partitions"))
    for table in ("population/run", "partitions/p"):
        rows, columns = ((tmp_path / way / "name" / f"{table}.parquet").read_bytes() for way in ("rows", "columns"))
        assert rows == columns
    tables = load("name", tmp_path / "columns")
    assert tables.population["num_examples"].tolist() == [500] * 20
    assert tables.population["pid"].isna().all()
    assert tables.partitions.drop(columns="partition_id").to_dict("records") == PARTITION
    assert tables.partitions["partition_id"].unique().tolist() == ["p"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"client": [0, 1], "nodes": ["n", "n"]},
        {"client": [0, 1], "node": ["n"]},
        {"client": np.array(["0", "1"])},
        {"client": np.array([0, 2**40])},
        {"client": np.array([0.5, 1.0])},
    ],
    ids=str,
)
def test_wrong_columns_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    made = Recorder(tmp_path, "name", "run", grouping(), RUN_ROW)
    with pytest.raises((TypeError, ValueError, pa.ArrowException)):
        made.start(wrong, PARTITION)
    assert not list(tmp_path.iterdir())


def test_a_hundred_thousand_clients_start_in_a_moment(tmp_path: Path) -> None:
    """0.2 s on two cores, 2 s as rows, of the processor's time; and no round writes the population again."""
    clients, labels = (index.ravel() for index in np.indices((100_000, 10)))
    population = {
        "client": np.arange(100_000),
        "actor": [f"{client:032x}" for client in range(100_000)],
        "node": ["n" * 56] * 100_000,
        "num_cpus": np.full(100_000, 0.1),
        "num_examples": np.full(100_000, 50),
    }
    partition = {
        "client": clients,
        "label": labels,
        "label_name": np.array(list("abcdefghij"), object)[labels],
        "count": (clients + labels) % 7,
    }
    made = Recorder(tmp_path, "name", "run", grouping(), RUN_ROW)
    start = time.process_time()
    made.start(population, partition)
    assert time.process_time() - start < 1.5
    record(made, range(1, 3))
    assert journal_of(tmp_path).stat().st_size < 10_000
    tables = load("name", tmp_path)
    assert tables.population["actor"].tolist() == population["actor"]
    assert np.array_equal(tables.partitions["count"], partition["count"])
    assert (tmp_path / "name" / "partitions" / "p.parquet").stat().st_size < 2_000_000


def test_settings_become_dotted_columns_once(tmp_path: Path) -> None:
    recorder(tmp_path).finish("finished")
    runs = load("name", tmp_path).runs
    assert runs.columns.is_unique
    assert list(runs.columns) == [
        *SCHEMAS["runs"].names,
        "rounds",
        "algorithm.name",
        "algorithm.lr",
        "algorithm.layers",
        *(name for name, newer in NEWER.items() if not newer.only),  # newer than 0.3.0, and neutral
    ]
    assert runs["algorithm.lr"].item() == 0.1
    assert runs["algorithm.layers"].item() == (1, 2)


def test_a_hundred_rounds_of_ten_clients_take_less_than_100_kb(tmp_path: Path) -> None:
    """All tables, with ids as long as Ray's and all settings; 86 kB here."""
    from fedray.experiment.composition import compose  # not above: each child that is killed would wait for it

    chance = np.random.default_rng(0)
    node, actors = chance.bytes(28).hex(), [chance.bytes(16).hex() for _ in range(16)]
    places = [{"actor": actors[client % 16], "node": node} for client in range(100)]
    words = {"settings": json.dumps(compose({}).settings()), "partition_id": "p", "rounds_planned": 100}
    made = Recorder(tmp_path, "name", "fedavg-seed0-0123456789", grouping(), words)
    made.start(
        [
            row | {"client": client} | place
            for client, (row, place) in enumerate(zip(POPULATION * 5, places, strict=True))
        ],
        [{"client": i // 10, "label": i % 10, "label_name": "cat", "count": chance.integers(99)} for i in range(1000)],
    )
    for t in range(1, 101):
        row, clients, _ = round_rows(t, cohort=10)
        numbers = {name: chance.random() for name in OWN["rounds"] if name.startswith(("seconds", "validation"))}
        numbers |= dict.fromkeys(
            f"validation_{name}" for name in ("auc", "mae", "rmse", "own_metric")
        )  # of classes null
        ended = STARTED_AT + timedelta(seconds=10 * t + chance.random())
        made.round(row | numbers | {"finished_at": ended}, [client | places[client["client"]] for client in clients])
    made.finish("finished")
    sizes = {path.parent.name: path.stat().st_size for path in (tmp_path / "name").glob("*/*.parquet")}
    assert sizes.keys() == OWN.keys()
    assert sum(sizes.values()) < 90_000


def two_runs(root: Path) -> Results:
    record(recorder(root, "a", alpha=None), range(1, 4)).finish("finished")
    record(recorder(root, "b", alpha=0.5), range(1, 3)).finish("finished")
    return load("name", root)


def test_duckdb_reads_a_folder_with_its_types(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    rounds = two_runs(tmp_path).rounds
    for table, schema in SCHEMAS.items():
        found = duckdb.sql(f"select * from '{tmp_path}/name/{table}/*.parquet'")
        assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
            field.name: DUCKDB_TYPES[str(field.type)] for field in schema
        }
    query = f"select run, alpha, count(*), max(test_accuracy), max(epoch_ms(finished_at)) from '{tmp_path}/name/rounds/*.parquet' group by all order by run"
    highest = rounds.groupby("run")["test_accuracy"].max()
    ended = round(STARTED_AT.timestamp() * 1000)
    assert duckdb.sql(query).fetchall() == [("a", None, 3, highest["a"], ended), ("b", 0.5, 2, highest["b"], ended)]


DUCKDB_TYPES = {
    "string": "VARCHAR",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "timestamp[ms, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
}


def test_polars_reads_a_folder_with_its_types(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    rounds = two_runs(tmp_path).rounds
    types = {"string": pl.String, "int32": pl.Int32, "int64": pl.Int64, "double": pl.Float64}
    types["timestamp[ms, tz=UTC]"] = pl.Datetime("ms", "UTC")
    for table, schema in SCHEMAS.items():
        found = pl.read_parquet(tmp_path / "name" / table / "*.parquet")
        assert dict(found.schema) == {field.name: types[str(field.type)] for field in schema}
    found = pl.read_parquet(tmp_path / "name" / "rounds" / "*.parquet")
    assert found["run"].to_list() == rounds["run"].tolist()
    assert found["test_loss"].to_list() == rounds["test_loss"].tolist()
    assert found["alpha"].to_list() == [None] * 3 + [0.5] * 2
    assert found["finished_at"].to_list() == [STARTED_AT] * 5


def test_parquet_waits_for_flush_seconds_but_load_does_not(tmp_path: Path) -> None:
    record(recorder(tmp_path, "slow", seconds=1000), range(1, 8))
    fast, rounds, t = recorder(tmp_path, "fast", seconds=1e-9), {}, 1
    while not rounds.get("fast") and t < 20_000:  # on a busy machine writing them takes longer, and so comes later
        record(fast, range(t, t + 300))
        rounds, t = pd.read_parquet(tmp_path / "name" / "rounds").groupby("run").size(), t + 300
    assert rounds.get("slow", 0) == 0
    assert rounds["fast"] > 0
    assert load("name", tmp_path).rounds.groupby("run").size().to_dict() == {"slow": 7, "fast": t - 1}


def test_a_wrong_row_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    made = record(recorder(tmp_path), range(1, 3))
    before = journal_of(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=r"no column.*acuracy"):
        made.round({"round": 3, "acuracy": 0.5}, [])
    with pytest.raises((TypeError, ValueError)):
        made.round({"round": 3}, [{"client": "seven"}])
    with pytest.raises(ValueError, match="running"):
        made.finish("running")
    with pytest.raises(ValueError, match="seed"):
        Recorder(tmp_path, "name", "r", {name: None for name in GROUPING if name != "seed"}, {})
    assert journal_of(tmp_path).read_bytes() == before
    record(made, range(3, 4))
    assert_holds_rounds(tmp_path, 3)


def test_one_run_loads_alone_with_its_partition(tmp_path: Path) -> None:
    record(recorder(tmp_path, "a"), range(1, 4)).finish("finished")
    alone = load("name", tmp_path)
    other = Recorder(tmp_path, "name", "b", grouping(), RUN_ROW | {"partition_id": "q"})
    other.start(POPULATION, PARTITION)
    record(other, range(1, 3)).finish("finished")
    both = load("name", tmp_path)
    assert len(both.rounds) == 5
    for table in OWN:
        assert_frame_equal(getattr(load("name", tmp_path, "a"), table), getattr(alone, table))
    assert load("name", tmp_path, "absent").runs.empty


# Journal and resume


def test_the_last_line_cut_anywhere_loads(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 5))
    whole = journal_of(tmp_path).read_bytes()
    ends = [match.end() for match in re.finditer(b"\n", whole)]  # of the header, then of rounds 1, 2, 3, 4
    near_the_ends = {*range(ends[3], ends[3] + 50), *range(ends[4] - 50, ends[4] + 1)}
    for cut in sorted({*range(ends[3], ends[4], 7), *near_the_ends}):
        journal_of(tmp_path).write_bytes(whole[:cut])
        lines = read_journal(journal_of(tmp_path)).lines
        complete = sum(cut >= end - 1 for end in ends[1:])  # the line break itself may be missing
        assert list(lines) == list(range(1, complete + 1))
        if cut % 97 < 7 or cut in (*ends, *(end - 1 for end in ends)):
            assert_holds_rounds(tmp_path, complete)


def test_a_resume_drops_a_damaged_last_line_for_good(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 5))
    text = journal_of(tmp_path).read_bytes()
    journal_of(tmp_path).write_bytes(text[:-40] + b"\0" * 39 + b"\n")
    assert_holds_rounds(tmp_path, 3)
    record(recorder(tmp_path, keep=3), range(4, 7))
    assert_holds_rounds(tmp_path, 6)


def test_a_journal_damaged_elsewhere_is_left_out_by_its_name(tmp_path: Path) -> None:
    """What Parquet has of its run loads; a resume, which needs the journal, is refused."""
    record(recorder(tmp_path), range(1, 4)).finish("interrupted")
    record(recorder(tmp_path, "other"), range(1, 3))
    lines = journal_of(tmp_path).read_bytes().splitlines(keepends=True)
    wrong = lines[2].replace(b'"client":[', b'"client":["x",')
    for damaged, line in ((0, b"{\n"), (1, b"{\n"), (2, b"{\n"), (1, b"[]\n"), (0, b"{}\n"), (2, wrong)):
        journal_of(tmp_path).write_bytes(b"".join([*lines[:damaged], line, *lines[damaged + 1 :]]))
        with pytest.warns(
            DamagedResultsWarning, match=r"journal .*run\.jsonl is damaged: .*; it was left out"
        ) as caught:
            tables = load("name", tmp_path)
        assert [(Path(warning.filename).name, warning.category) for warning in caught] == [
            (Path(__file__).name, DamagedResultsWarning)
        ]
        assert tables.rounds.groupby("run").size().to_dict() == {"run": 3, "other": 2}
        assert sorted(tables.runs["status"]) == ["interrupted", "killed"]
        if line != wrong:
            with pytest.raises(BadInputError, match=r"journal .*run\.jsonl is damaged"):
                recorder(tmp_path, keep=1)


def test_a_journal_of_a_newer_version_is_read_without_what_is_new_and_not_written_to(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 4))
    text = re.sub(',"crc32":[0-9]+', "", journal_of(tmp_path).read_text())
    for there, table, then in (
        ("update_norm", "rounds", "update_size"),
        ("best_round", "runs", "best_turn"),
        ("steps", "clients", "stops"),
        ("alpha", "grouping", "alphas"),
    ):
        assert f'"{there}"' in text
        journal_of(tmp_path).write_text(text.replace(f'"{there}"', f'"{then}"'))
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.warns(NewerResultsWarning, match=rf"/name has columns that this fedray, .* {table}\.{then}"):
            found = load("name", tmp_path)
        assert found.rounds["test_loss"].tolist() == [round_rows(t)[0]["test_loss"] for t in range(1, 4)]
        assert found.rounds["update_norm"].isna().all() == (table == "rounds")
        sentence = rf"run\.jsonl was written by another version of fedray, its columns with .*{table}\.{then}.*, and"
        with pytest.raises(BadInputError, match=sentence):
            Recorder.resume(tmp_path, "name", "run", grouping(), RUN_ROW, keep_rounds=2)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


ABSENT = {
    "runs": ["judged_by", "num_buffers", "started_at"],
    "rounds": ["round_lr", "bytes_up", "retries"],
    "clients": ["node", "train_loss"],
    "population": ["pid"],
    "metrics": [],
    "confusion": [],
    "partitions": ["label_name"],
}
"""Columns that an older version did not have; nor had it the grouping column `weighting`, nor the table evaluations."""


def make_older(root: Path, run: str = "run") -> None:
    """Remove columns, and tables, from a run's files: what an older version would have written."""
    shutil.rmtree(root / "name" / "evaluations", ignore_errors=True)
    for table, names in ABSENT.items():
        path = root / "name" / table / f"{'p' if table == 'partitions' else run}.parquet"
        grouped = [] if table == "partitions" else ["weighting"]
        rewrite(path, lambda found, names=[*names, *grouped]: found.drop_columns(names))
    if journal_of(root, run).exists():
        header, *lines = map(decode_line, journal_of(root, run).read_bytes().splitlines())
        del header["grouping"]["weighting"]
        for name in ABSENT["runs"][:2]:
            del header["runs"][name]
        for line in lines:
            del line["evaluations"]
            for table, names in ABSENT.items():
                for name in names if table in line else ():
                    del line[table][name]
        journal_of(root, run).write_bytes(b"".join(map(encode_line, (header, *lines))))


def assert_is_older(found: Results, whole: Results, rounds: int) -> None:
    """The tables are those of `whole` with nulls where the older version had no column, up to this round."""
    for table in OWN:
        was, now = getattr(whole, table), getattr(found, table)
        absent = [*ABSENT.get(table, []), *(["weighting"] if table != "partitions" else [])]
        assert list(now) == list(was)
        assert now[absent].isna().all(axis=None)
        of_journal = "started_at" if table == "runs" else None
        kept = [name for name in now if name not in absent and name != of_journal]
        assert_frame_equal(now[kept], was[kept], check_dtype=False)
        assert now.dtypes.drop(absent).equals(was.dtypes.drop(absent))
    assert found.rounds["round"].tolist() == list(range(1, rounds + 1))


def test_columns_and_tables_that_an_older_version_lacks_are_null(tmp_path: Path) -> None:
    """In the files of a run that ended, in the journal of one that was killed, and in a folder of both."""
    record(recorder(tmp_path), range(1, 6)).finish("finished")
    whole = load("name", tmp_path)
    make_older(tmp_path)
    assert_is_older(load("name", tmp_path), whole, 5)
    assert status(tmp_path, "name", "run") == "finished"
    check_version(tmp_path, "name")
    record(recorder(tmp_path, "new"), range(1, 6)).finish("finished")
    both = load("name", tmp_path)
    assert both.rounds.groupby("run")["retries"].apply(lambda each: each.isna().all()).to_dict() == {
        "new": True,
        "run": True,
    }
    assert both.rounds.groupby("run")["round_lr"].apply(lambda each: each.isna().sum()).to_dict() == {
        "new": 0,
        "run": 5,
    }
    assert both.rounds.groupby("run")["weighting"].count().to_dict() == {"new": 5, "run": 0}


def test_the_journal_of_an_older_version_goes_on_with_its_lines_made_whole(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 6))
    whole = load("name", tmp_path)
    make_older(tmp_path)
    found = load("name", tmp_path)
    assert found.rounds["round"].tolist() == [1, 2, 3, 4, 5] and found.rounds["round_lr"].isna().all()
    assert found.clients["weighting"].isna().all() and found.runs["judged_by"].isna().all()
    assert_frame_equal(found.rounds[["test_loss", "seconds"]], whole.rounds[["test_loss", "seconds"]])
    assert_frame_equal(found.confusion.drop(columns="weighting"), whole.confusion.drop(columns="weighting"))
    again = recorder(tmp_path, keep=4)
    assert all(decode_line(line).keys() == {*IN_JOURNAL} for line in journal_of(tmp_path).read_bytes().splitlines()[1:])
    record(again, range(5, 8)).finish("finished")
    assert_holds_rounds(tmp_path, 7)
    ended = load("name", tmp_path)
    assert ended.rounds["round_lr"].isna().tolist() == [True] * 4 + [False] * 3
    assert ended.rounds["weighting"].tolist() == ["x"] * 7
    known = [name for name in whole.rounds if name not in ABSENT["rounds"]]
    assert ended.rounds[known].dtypes.equals(whole.rounds[known].dtypes)


def test_a_round_recorded_twice_counts_once(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 4))
    lines = journal_of(tmp_path).read_bytes().splitlines(keepends=True)
    journal_of(tmp_path).write_bytes(b"".join(lines + lines[-1:]))
    assert_holds_rounds(tmp_path, 3)


def test_a_journal_is_enough_when_no_parquet_was_written(tmp_path: Path) -> None:
    """But for the population, which is in Parquet before there is a journal."""
    record(recorder(tmp_path, alpha=0.5), range(1, 4))
    for table in PER_RUN:
        if table != "population":
            (tmp_path / "name" / table / "run.parquet").unlink()
    assert_holds_rounds(tmp_path, 3)
    assert load("name", tmp_path).clients["alpha"].unique().tolist() == [0.5]
    (tmp_path / "name" / "population" / "run.parquet").unlink()
    assert load("name", tmp_path).population.empty
    assert len(load("name", tmp_path).rounds) == 3


def dying_after(files: int) -> Callable[[Path, Path], Path]:
    """A `Path.replace` that dies when it is called once more than this."""
    left = iter(range(files))

    def replace(temporary: Path, path: Path, really: Any = Path.replace) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return really(temporary, path)

    return replace


def test_a_restart_replaces_the_population_and_may_die_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other actors, and dying before each file that its start puts in place."""
    record(recorder(tmp_path), range(1, 4))
    others = [row | {"actor": f"b{row['client']}"} for row in POPULATION]
    for survived in range(20):
        again = Recorder.resume(tmp_path, "name", "run", grouping(), RUN_ROW, keep_rounds=2)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dying_after(survived))
            try:
                again.start(others, PARTITION)
            except KeyboardInterrupt:
                pass
            else:
                break
        assert_holds_rounds(tmp_path, 3)
        assert load("name", tmp_path).population["actor"][7] == ("b7" if survived else "a7")
    assert 4 < survived < 19
    record(again, range(3, 5)).finish("finished")
    assert_holds_rounds(tmp_path, 4)
    assert load("name", tmp_path).population["actor"].tolist() == [f"b{c}" for c in range(20)]


def test_a_first_start_may_die_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its journal it is no run; with it, it is one that has not played a round, and has its population."""
    for survived in range(20):
        root = tmp_path / f"{survived}"
        made = Recorder(root, "name", "run", grouping(), RUN_ROW)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dying_after(survived))
            try:
                made.start(POPULATION, PARTITION)
            except KeyboardInterrupt:
                pass
            else:
                break
        if survived < 2:
            assert load("name", root).runs.empty
            assert load("name", root).population.empty
        else:
            assert_holds_rounds(root, 0)
        record(recorder(root), range(1, 3))
        assert_holds_rounds(root, 2)
    assert 4 < survived < 19


@pytest.mark.parametrize("how", ["interrupted", "failed", "killed"])
def test_a_resumed_run_ends_in_the_tables_of_an_uninterrupted_one(tmp_path: Path, how: str) -> None:
    record(recorder(tmp_path / "straight"), range(1, 9)).finish("finished")
    made = record(recorder(tmp_path / "resumed", seconds=1e-9), range(1, 7))
    if how != "killed":
        made.finish(how, "why")
        assert load("name", tmp_path / "resumed").runs["error"].item() == "why"
    started_at = load("name", tmp_path / "resumed").runs["started_at"].item()
    resumed = recorder(tmp_path / "resumed", keep=5)
    assert_holds_rounds(tmp_path / "resumed", 6)  # reported once, so on disk, though it will be recorded again
    assert pd.read_parquet(tmp_path / "resumed/name/rounds")["round"].max() == 5
    assert [row["round"] for row in resumed.rounds] == [1, 2, 3, 4, 5]
    record(resumed, range(6, 9)).finish("finished")
    straight, tables = load("name", tmp_path / "straight"), load("name", tmp_path / "resumed")
    for table in ("rounds", "clients", "population", "metrics", "confusion", "partitions"):
        assert_frame_equal(getattr(straight, table), getattr(tables, table))
    assert tables.runs["started_at"].item() == started_at
    assert tables.runs["error"].isna().item()


def test_a_resume_needs_the_rounds_before_the_checkpoint(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 4))
    with pytest.raises(BadInputError, match=r"run\.jsonl holds 3 of the 5 rounds"):
        recorder(tmp_path, keep=5)
    with pytest.raises(BadInputError, match=r"other\.jsonl holds 0 of the 5 rounds"):
        recorder(tmp_path, "other", keep=5)
    record(recorder(tmp_path / "new", keep=0), range(1, 3))
    assert_holds_rounds(tmp_path / "new", 2)


def test_a_fresh_start_replaces_an_earlier_attempt(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 6)).finish("finished")
    with record(recorder(tmp_path), range(1, 3)).locked():
        assert status(tmp_path, "name", "run") == "running"
    assert_holds_rounds(tmp_path, 2)
    assert pd.read_parquet(tmp_path / "name/rounds").empty


@pytest.mark.parametrize("journal", [True, False], ids=["in its journal", "before its first round"])
def test_a_run_whose_process_is_gone_reads_killed_and_no_reader_writes(tmp_path: Path, journal: bool) -> None:
    """Its lock tells, which a kill leaves behind; on disk it stays `running`, also where nothing can be written."""
    made = recorder(tmp_path)
    if journal:
        record(made, range(1, 3))
    lock = tmp_path / "name" / "journal" / ".run.lock"
    with made.locked():
        assert load("name", tmp_path).runs["status"].item() == "running"
        left = lock.read_bytes()
    for kept in (True, False):
        if kept:
            lock.write_bytes(left)
        else:
            lock.unlink()
        before = {path: path.stat() for path in tmp_path.rglob("*")}
        with unwritable(tmp_path):
            assert load("name", tmp_path).runs["status"].item() == "killed"
            assert status(tmp_path, "name", "run") == "killed"
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == {
            path: stat.st_mtime_ns for path, stat in before.items()
        }
        assert pd.read_parquet(tmp_path / "name/runs")["status"].item() == "running"


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder of which nothing can be written; root could all the same, and opens nothing to write here."""
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_what_killed_writers_left_is_skipped_and_then_removed(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 3)).finish("finished")
    mine, other = (tmp_path / "name" / "rounds" / f".{run}.parquet.tmp-1-0" for run in ("run", "other"))
    for leftover in (mine, other):
        leftover.write_bytes(b"PAR1 half a file")
    assert len(pd.read_parquet(tmp_path / "name" / "rounds")) == 2
    assert_holds_rounds(tmp_path, 2)
    recorder(tmp_path)
    assert not mine.exists()
    assert other.exists()  # it may be alive


# Kills


def test_every_printed_round_is_there_after_a_kill(tmp_path: Path) -> None:
    """One run, killed and resumed over and over, its Parquet files being rewritten as often as they can be."""
    chance, reached = random.Random(0), 0
    for _ in range(4):
        keep = reached // 5 * 5
        printed = kill_child("rounds", tmp_path, str(keep), lines=chance.randrange(1, 60), more=chance.random() * 0.03)
        assert printed == list(range(keep + 1, keep + 1 + len(printed)))
        tables = load("name", tmp_path)
        reached = len(tables.rounds)
        assert printed[-1] <= reached <= printed[-1] + 1
        assert_holds_rounds(tmp_path, reached)
        plain = pd.read_parquet(tmp_path / "name" / "rounds")
        assert plain["round"].tolist() == list(range(1, len(plain) + 1))
    record(recorder(tmp_path, keep=reached), range(reached + 1, reached + 3)).finish("finished")
    assert_holds_rounds(tmp_path, reached + 2)
    assert not list(tmp_path.rglob(".*"))


def test_every_printed_run_is_final_after_a_kill(tmp_path: Path) -> None:
    """Short runs one after another, so that kills strike starts and finishes; a run is final with all its rounds or not
    at all."""
    chance = random.Random(1)
    for child in range(3):
        root = tmp_path / str(child)
        printed = kill_child("runs", root, lines=chance.randrange(1, 8), more=chance.random() * 0.1)
        tables = load("name", root)
        statuses = tables.runs.set_index("run")["status"].to_dict()
        assert {run for run in statuses if statuses[run] == "finished"} >= {f"r{number}" for number in printed}
        assert len(statuses) <= len(printed) + 1
        done = tables.rounds.groupby("run").size().to_dict()
        for run, found in statuses.items():
            assert status(root, "name", run) in (found, None)
            assert done.get(run, 0) == 3 if found == "finished" else done.get(run, 0) <= 3
            assert found in ("killed", "finished")


def kill_child(what: str, root: Path, *more_arguments: str, lines: int, more: float) -> list[int]:
    """Start this file as a program, read `lines` numbers, wait `more` seconds, SIGKILL; all numbers it printed."""
    command = [sys.executable, __file__, what, str(root), *more_arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        printed = [int(child.stdout.readline()) for _ in range(lines)]
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=more)
        child.send_signal(signal.SIGKILL)
        return printed + [int(line) for line in child.stdout]


def count_forever(what: str, root: Path, keep: int = 0) -> Iterator[int]:
    """What the killed child does: rounds of one run, or one short run after another; a number for each that is done."""
    if what == "rounds":
        made = recorder(root, keep=keep, seconds=1e-9)
        for t in range(keep + 1, 100_000):
            record(made, range(t, t + 1))
            yield t
    for number in range(100_000):
        record(recorder(root, f"r{number}", seconds=1e-9), range(1, 4)).finish("finished")
        yield number


# What the user gives


def test_status_is_cheap_and_never_guessed(tmp_path: Path) -> None:
    assert status(tmp_path, "name", "run") is None
    made = recorder(tmp_path)
    with made.locked():
        assert status(tmp_path, "name", "run") == "running"
    assert status(tmp_path, "name", "run") == "killed"
    for ending in ("interrupted", "failed", *FINAL_STATUSES):
        made.finish(ending)
        assert status(tmp_path, "name", "run") == ending
        made = recorder(tmp_path)
    path = tmp_path / "name" / "runs" / "run.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInputError, match=r"runs/run\.parquet cannot be read"):
        status(tmp_path, "name", "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The root of the results of two runs, and what loads of them."""
    root = tmp_path_factory.mktemp("finished")
    for run in "ab":
        record(recorder(root, run), range(1, 3)).finish("finished")
    return root, load("name", root)


@pytest.mark.parametrize("size", [0, 7, -100, -1])
@pytest.mark.parametrize("table", PER_RUN)
def test_a_truncated_file_is_left_out_by_its_name_and_the_rest_loads(
    tmp_path: Path, finished: tuple[Path, Results], table: str, size: int
) -> None:
    root, whole = finished
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "name" / table / "a.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.warns(
        DamagedResultsWarning, match=rf"{table}/a\.parquet cannot be read: .*; it was left out"
    ) as caught:
        found = load("name", tmp_path)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    for each in OWN:
        expected = getattr(whole, each)
        if each == table:
            expected = expected[expected["run"] == "b"].reset_index(drop=True)
        assert_frame_equal(getattr(found, each), expected)
    assert load("name", tmp_path, "b").runs["run"].tolist() == ["b"]
    with pytest.warns(DamagedResultsWarning):
        assert len(load("name", tmp_path, "a").runs) == (table != "runs")


def test_a_damaged_row_of_a_running_run_is_made_up_for_by_its_journal(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 4))
    (tmp_path / "name/runs/run.parquet").write_bytes(b"")
    with pytest.warns(DamagedResultsWarning, match=r"runs/run\.parquet"):
        tables = load("name", tmp_path)
    assert (tables.runs["status"].item(), len(tables.rounds), len(tables.population)) == ("killed", 3, 20)


def test_a_damaged_partition_is_left_out_by_its_name(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 3)).finish("finished")
    (tmp_path / "name/partitions/p.parquet").write_bytes(b"PAR1")
    for run in (None, "run"):
        with pytest.warns(DamagedResultsWarning, match=r"partitions/p\.parquet"):
            tables = load("name", tmp_path, run)
        assert tables.partitions.empty
        assert len(tables.rounds) == 2


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> bytes:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)
    return path.read_bytes()


def test_results_that_cannot_be_read_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    """A column of another type, and one that says what a row is about; beside newer columns nothing is written."""
    for run in "ab":
        made = recorder(tmp_path, run)
        record(made, range(1, 3)).finish("finished", fedray_version="0.0.7")
    check_version(tmp_path, "name")
    check_version(tmp_path, "absent")
    sentence = (
        rf"rounds/b\.parquet was written by version 0\.0\.7 of fedray, its columns with test_loss of another type, .* "
        rf"this one, {re.escape(__version__)}, .* nothing in {tmp_path}/name/ was changed: take another "
        r"--output\.name, or that version$"
    )
    path = tmp_path / "name" / "rounds" / "b.parquet"

    def retype(table: pa.Table) -> pa.Table:
        column = table.schema.get_field_index("test_loss")
        return table.set_column(column, "test_loss", table["test_loss"].cast(pa.float32()))

    before = rewrite(path, retype)
    with pytest.raises(BadInputError, match=sentence):
        load("name", tmp_path)
    assert path.read_bytes() == before
    rewrite(tmp_path / "name" / "rounds" / "a.parquet", retype)
    with pytest.raises(BadInputError, match=r"rounds/[ab]\.parquet was written by version 0\.0\.7"):
        check_version(tmp_path, "name")
    rewrite(
        tmp_path / "name" / "runs" / "b.parquet", lambda table: table.append_column("new", pa.nulls(1, pa.string()))
    )
    with pytest.raises(
        BadInputError, match=r"runs/b\.parquet was written by version 0\.0\.7 of fedray, its columns with new, and"
    ):
        check_version(tmp_path, "name")
    assert status(tmp_path, "name", "a") == status(tmp_path, "name", "b") == "finished"
    rewrite(tmp_path / "name" / "runs" / "b.parquet", lambda table: table.drop_columns("status"))
    for refused in (lambda: status(tmp_path, "name", "b"), lambda: check_version(tmp_path, "name")):
        with pytest.raises(BadInputError, match=r"runs/b\.parquet .* its columns without status"):
            refused()


def test_other_columns_without_a_version_are_refused_too(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 3)).finish("finished", fedray_version=__version__)
    pd.DataFrame({"run": ["run"]}).to_parquet(tmp_path / "name" / "clients" / "run.parquet")
    with pytest.raises(
        BadInputError,
        match=r"clients/run\.parquet .* its columns without round, client and with run of another type, and",
    ):
        load("name", tmp_path)
    pd.DataFrame({"run": ["run"]}).to_parquet(tmp_path / "name" / "runs" / "run.parquet")
    with pytest.raises(BadInputError, match=r"runs/run\.parquet was written by another version"):
        check_version(tmp_path, "name")


def test_a_check_of_the_version_passes_over_damage(tmp_path: Path) -> None:
    record(recorder(tmp_path), range(1, 3)).finish("finished")
    path = tmp_path / "name" / "runs" / "run.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    check_version(tmp_path, "name")


def test_a_missing_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    for name in ("quickstart", "learning-rates"):
        Recorder(tmp_path, name, "run", grouping(), {}).start([], [])
    with pytest.raises(BadInputError, match=r"'quickstrat'.*'quickstart'"):
        load("quickstrat", tmp_path)
    with pytest.raises(BadInputError, match="no results 'x'"):
        load("x", tmp_path / "absent")
    assert load("quickstart", tmp_path).rounds.empty


def test_a_missing_folder_is_named_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder(tmp_path, "quickstart", "run", grouping(), {}).start([], [])
    absent = tmp_path / "quickstar"
    with pytest.raises(BadInputError, match=f"{absent}' in {tmp_path}; the nearest name is 'quickstart'"):
        load(str(absent))
    with pytest.raises(BadInputError, match=f"{absent / 'x'}': there is no folder {absent}$"):
        load(absent / "x")  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=f"no results 'quickstart': there is no folder {tmp_path / 'results'}$"):
        load("quickstart")
    with pytest.raises(BadInputError, match=f"no results 'x' in {tmp_path}; the nearest"):
        load("x", ".")


def test_unwritable_folders_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b", tmp_path / "dangling", Path("/proc/a/b")):
        with pytest.raises(BadInputError, match="^results cannot be written to .*: (/|no file can be made)"):
            check_writable(path)
    check_writable(tmp_path / "new" / "results")
    check_writable(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "é", "a\n"])
def test_a_results_name_is_one_folder_name(name: str) -> None:
    with pytest.raises(ValidationError, match="one folder name"):
        Output(name=name)
    assert Output(name="lr_0.1-b").name == "lr_0.1-b"


if __name__ == "__main__":
    kind, folder, *rest = sys.argv[1:]
    for finished in count_forever(kind, Path(folder), *map(int, rest)):
        print(finished, flush=True)
