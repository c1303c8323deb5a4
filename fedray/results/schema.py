"""The tables of the results: their columns, and rows turned into them. recorder.py writes them, files.py reads them.

Columns and tables are only added: none is renamed, retyped or removed. In files of older versions a new column is null.

docs/results.md says what each column means.

Every per-run table begins with `run` and the grouping columns, the same for every run. So a folder of runs reads as one
table, and can be grouped by the settings that were varied.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fedray.core.metrics import METRICS, sign

STRING, INT, LONG, FLOAT = pa.string(), pa.int32(), pa.int64(), pa.float64()
TIME = pa.timestamp("ms", tz="UTC")

GROUPING: dict[str, pa.DataType] = {
    **dict.fromkeys(("algorithm", "dataset", "data_format", "model", "partition"), STRING),
    "alpha": FLOAT,
    **dict.fromkeys(("clients", "cohort", "epochs", "local_steps", "batch_size"), INT),
    **dict.fromkeys(("lr", "momentum", "server_lr"), FLOAT),
    "weighting": STRING,
    "seed": LONG,
}

MEASURES = (*METRICS, "own_metric")
"""The measures of a split besides loss and accuracy."""

OWN: dict[str, dict[str, pa.DataType]] = {
    "runs": {
        **dict.fromkeys(("status", "error", "settings"), STRING),
        **dict.fromkeys(("rounds_planned", "rounds_done"), INT),
        **dict.fromkeys(("final_test_accuracy", "final_test_loss", "best_test_accuracy"), FLOAT),
        "best_round": INT,
        "judged_by": STRING,
        "final_validation_accuracy": FLOAT,
        **dict.fromkeys(("final_client_accuracy", "best_client_accuracy"), FLOAT),
        "seconds": FLOAT,
        **dict.fromkeys(("num_params", "num_buffers"), LONG),
        "actors": INT,
        **dict.fromkeys(
            ("partition_id", "data_fingerprint", "model_source_fingerprint", "algorithm_source_fingerprint"), STRING
        ),
        "model_fingerprint": STRING,
        **dict.fromkeys(("started_at", "finished_at"), TIME),
        **dict.fromkeys(("fedray_version", "python_version", "torch_version", "ray_version", "numpy_version"), STRING),
        **dict.fromkeys(("device", "cpu_capability", "engine"), STRING),
        **dict.fromkeys(("blocks", "forms_version"), INT),
        **dict.fromkeys(("played_before", "own_code", "fedray_source"), STRING),
        "taken_from": STRING,
        **dict.fromkeys((f"final_test_{measure}" for measure in MEASURES), FLOAT),
        **dict.fromkeys((f"best_test_{measure}" for measure in ("loss", *MEASURES)), FLOAT),
        **dict.fromkeys((f"final_validation_{measure}" for measure in ("loss", *MEASURES)), FLOAT),
        **dict.fromkeys(("final_client_loss", "best_client_loss", "final_unseen_loss", "final_unseen_accuracy"), FLOAT),
    },
    "rounds": {
        "round": INT,
        **dict.fromkeys(("round_lr", "test_loss", "test_accuracy", "test_top_k_accuracy"), FLOAT),
        **dict.fromkeys(("validation_loss", "validation_accuracy", "validation_top_k_accuracy"), FLOAT),
        **dict.fromkeys(("client_loss", "client_accuracy", "client_accuracy_p10", "client_accuracy_std"), FLOAT),
        "train_loss": FLOAT,
        **dict.fromkeys(("cohort_size", "answered", "dropouts", "surplus", "lost", "non_finite"), INT),
        **dict.fromkeys(("num_examples", "images", "padding"), LONG),
        "update_norm": FLOAT,
        **dict.fromkeys(("bytes_down", "bytes_up"), LONG),
        "retries": INT,
        **dict.fromkeys(("seconds", "seconds_train", "seconds_transfer", "seconds_aggregate"), FLOAT),
        **dict.fromkeys(("seconds_idle", "seconds_evaluate", "seconds_record", "cpu_seconds"), FLOAT),
        "finished_at": TIME,
        **dict.fromkeys((f"{split}_{measure}" for split in ("test", "validation") for measure in MEASURES), FLOAT),
        **dict.fromkeys(("unseen_loss", "unseen_accuracy"), FLOAT),
    },
    "clients": {
        **dict.fromkeys(("round", "client"), INT),
        "num_examples": LONG,
        "steps": INT,
        **dict.fromkeys(("train_loss", "update_norm", "seconds", "cpu_seconds"), FLOAT),
        **dict.fromkeys(("status", "actor", "node"), STRING),
        "pid": INT,
    },
    "population": {
        "client": INT,
        **dict.fromkeys(("actor", "node"), STRING),
        "pid": INT,
        **dict.fromkeys(("num_cpus", "num_gpus"), FLOAT),
        "num_examples": LONG,
    },
    "evaluations": {
        **dict.fromkeys(("round", "client"), INT),
        "test_examples": LONG,
        **dict.fromkeys(("test_loss", "test_accuracy"), FLOAT),
    },
    "confusion": {
        "which": STRING,
        "round": INT,
        "split": STRING,
        **dict.fromkeys(("label", "predicted"), INT),
        "count": LONG,
    },
    "metrics": {"round": INT, "name": STRING, "value": FLOAT},
    "events": {
        "round": INT,
        **dict.fromkeys(("kind", "detail", "actor", "node"), STRING),
        "pid": INT,
        "at_work": STRING,
        "at": TIME,
    },
    "partitions": {"partition_id": STRING, "client": INT, "label": INT, "label_name": STRING, "count": LONG},
}
"""The own columns of each table, which are all of them for `partitions`: runs share that one."""

PER_RUN = tuple(table for table in OWN if table != "partitions")
BY_ROUND = ("rounds", "clients", "metrics", "evaluations", "events")
"""The tables that hold what each round added to them."""
PACKED = ("round", "split", "counts")
"""The columns of `confusion` in the journal, where it is packed (confusion_counts.py). The table has two rounds."""

PLAYED = {"engine": str, "blocks": int}
"""Columns of `runs` with the name and the type of a setting: what trained the run, which may not be what is in its id.

`load` fills them in from the settings for files of versions that had no such columns.
"""

REPEATS = {
    **{name: f"{name}.name" for name in ("algorithm", "model", "partition")},
    "dataset": "data.dataset",
    "alpha": "partition.alpha",
    "local_steps": "algorithm.steps",
    **{name: f"algorithm.{name}" for name in ("epochs", "batch_size", "lr", "momentum", "server_lr", "weighting")},
}
"""The setting that a grouping column repeats."""

FOLDER = "folder"
"""The column that `load` adds to `runs` of several results: the name of those that a run is from."""

FINAL_STATUSES = ("finished", "reached_target", "no_improvement", "diverged")
FAILED_STATUSES = ("failed", "too_few_survivors")
STATUSES = ("running", "interrupted", *FAILED_STATUSES, "halved", *FINAL_STATUSES)
"""The statuses on disk. What a killed process leaves is `running` there, and `killed` for readers (files.py)."""

SCHEMAS: dict[str, pa.Schema] = {
    table: pa.schema(list(({"run": STRING, **GROUPING, **own} if table in PER_RUN else own).items()))
    for table, own in OWN.items()
}

Columns = dict[str, list[Any]]
"""A table's own columns as plain Python values, what the journal holds as JSON; a time is in ms since 1970 UTC."""

Content = Iterable[Mapping[str, Any]] | Mapping[str, Sequence[Any] | np.ndarray]
"""The content of a table: rows, or columns, which for 100,000 clients are far less work."""


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values JSON and Arrow both take: NumPy's scalars as Python's, a time as ms since 1970 UTC."""
    return {name: _plain(value) for name, value in row.items()}


def needed(table: str) -> list[str]:
    """The columns without which a file of the table says nothing."""
    names = SCHEMAS[table].names
    return (
        ["run", "status", "settings"] if table == "runs" else [n for n in names if n in (names[0], "round", "client")]
    )


def in_order(table: str, found: pa.Table) -> pa.Table:
    """The table with its columns in their order, null where an older file lacks one; unknown columns come last."""
    known = SCHEMAS[table].names
    for field in SCHEMAS[table]:
        if field.name not in found.column_names:
            found = found.append_column(field, pa.nulls(len(found), field.type))
    return found.select([*known, *(name for name in found.column_names if name not in known)])


def to_columns(table: str, content: Content) -> Columns:
    """All columns as plain values. A column that is not given is null; one that the table lacks is a ValueError."""
    if isinstance(content, Mapping):
        _check_names(table, content)
        nulls = [None] * len(next(iter(content.values()), ()))
        return {name: [_plain(v) for v in content[name]] if name in content else list(nulls) for name in OWN[table]}
    columns: Columns = {name: [] for name in OWN[table]}
    for row in content:
        _check_names(table, row)
        for name, values in columns.items():
            values.append(_plain(row.get(name)))
    return columns


def to_rows(columns: Columns) -> list[dict[str, Any]]:
    """The inverse of `to_columns`."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def to_batch(table: str, content: Content) -> pa.Table:
    """Rows or columns as Arrow, typed; a column that is not given is null.

    A column that the table does not have, or of another length than the first, is a ValueError; a value of the wrong
    type is an error of Arrow's own.
    """
    columns = content if isinstance(content, Mapping) else to_columns(table, content)
    _check_names(table, columns)
    height = len(next(iter(columns.values()), ()))
    arrays = [
        pa.array(columns[name], type_) if name in columns else pa.nulls(height, type_)
        for name, type_ in OWN[table].items()
    ]
    return pa.table(arrays, names=list(OWN[table]))


def join_batches(table: str, batches: list[pa.Table], run: str, grouping: Mapping[str, Any]) -> pa.Table:
    """The whole table of one run: the run and its grouping columns repeated in front of the batches' rows.

    A grouping column that is not given is null.
    """
    own = pa.concat_tables([to_batch(table, []), *batches])
    common = {"run": run, **grouping}
    repeated = [pa.repeat(pa.scalar(common.get(name), type_), len(own)) for name, type_ in _COMMON.items()]
    return pa.table(repeated + own.columns, schema=SCHEMAS[table])


JUDGED_BY = (
    *("round", "seconds", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss"),
    *("client_accuracy", "client_loss", "unseen_accuracy", "unseen_loss"),
    *(f"{split}_{measure}" for split in ("test", "validation") for measure in MEASURES),
)
"""The columns of `rounds`, of any round, by which a run ends and its totals are made."""


def judging_column(judged_by: Any, rounds: Sequence[Mapping[str, Any]] = ()) -> str:
    """The column of `rounds` that a run is judged by, from the column `judged_by` of `runs`.

    Where that is null, as of older versions, it is the accuracy that the rounds have.
    """
    if isinstance(judged_by, str):
        return f"{judged_by}_accuracy" if judged_by in ("test", "validation", "client") else judged_by
    measures = ("validation_accuracy", "test_accuracy", "client_accuracy")
    return next((name for name in measures if any(row[name] is not None for row in rounds)), "test_accuracy")


def summarise(rounds: list[dict[str, Any]], judged_by: str | None = None) -> dict[str, Any]:
    """The columns of `runs` that follow from the rounds: count, seconds, the last evaluation, the best round.

    The best round is the first one with the best of the measure that the run is judged by (run/stopping.py), which
    the column `judged_by` of `runs` says: on the validation split where there is one, and the clients' where there is
    no global model to evaluate.
    """
    evaluated = [row for row in rounds if row["test_loss"] is not None or row["test_accuracy"] is not None]
    last = evaluated[-1] if evaluated else {}
    judge = judging_column(judged_by, rounds)
    numbers = [row for row in rounds if row[judge] is not None and not math.isnan(row[judge])]
    best = max(numbers, key=lambda row: sign(judge) * row[judge], default={})
    names = ("client_accuracy", "client_loss", "unseen_accuracy", "unseen_loss")
    of_clients: dict[str, list[float]] = {
        name: [row[name] for row in rounds if row[name] is not None] for name in names
    }
    finals = ("test_accuracy", "test_loss", "validation_accuracy", "validation_loss")
    measures = [f"{split}_{measure}" for split in ("test", "validation") for measure in MEASURES]
    return {
        "rounds_done": len(rounds),
        "seconds": sum(row["seconds"] or 0.0 for row in rounds),
        "best_round": best.get("round"),
        **{f"final_{name}": last.get(name) for name in (*finals, *measures)},
        **{f"best_test_{name}": best.get(f"test_{name}") for name in ("accuracy", "loss", *MEASURES)},
        **{f"final_{name}": each[-1] if each else None for name, each in of_clients.items()},
        "best_client_accuracy": max(of_clients["client_accuracy"], default=None),
        "best_client_loss": min(of_clients["client_loss"], default=None),
    }


_COMMON = {"run": STRING, **GROUPING}


def _check_names(table: str, names: Mapping[str, Any]) -> None:
    if not names.keys() <= OWN[table].keys():
        raise ValueError(f"table {table!r} has no column {sorted(names.keys() - OWN[table].keys())}")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return value.item() if isinstance(value, np.generic) else value
