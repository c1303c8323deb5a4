"""The tables of the results: their columns, and rows turned into them. results/README.md says what each column means.

Every per-run table begins with `run` and the grouping columns, the same for every run, so that a folder of runs reads
as one table and can be grouped by what was varied.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

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

OWN: dict[str, dict[str, pa.DataType]] = {
    "runs": {
        **dict.fromkeys(("status", "error", "settings"), STRING),
        **dict.fromkeys(("rounds_planned", "rounds_done"), INT),
        **dict.fromkeys(("final_test_accuracy", "final_test_loss", "best_test_accuracy"), FLOAT),
        "best_round": INT,
        "seconds": FLOAT,
        **dict.fromkeys(("num_params", "num_buffers"), LONG),
        "actors": INT,
        **dict.fromkeys(("partition_id", "data_fingerprint", "model_fingerprint"), STRING),
        **dict.fromkeys(("started_at", "finished_at"), TIME),
        **dict.fromkeys(("fedray_version", "python_version", "torch_version", "ray_version", "numpy_version"), STRING),
        **dict.fromkeys(("device", "cpu_capability"), STRING),
    },
    "rounds": {
        "round": INT,
        **dict.fromkeys(("round_lr", "test_loss", "test_accuracy", "train_loss"), FLOAT),
        "cohort_size": INT,
        "num_examples": LONG,
        "update_norm": FLOAT,
        **dict.fromkeys(("bytes_down", "bytes_up"), LONG),
        "retries": INT,
        **dict.fromkeys(("seconds", "seconds_train", "seconds_aggregate", "seconds_evaluate"), FLOAT),
        "finished_at": TIME,
    },
    "clients": {
        **dict.fromkeys(("round", "client"), INT),
        "num_examples": LONG,
        "steps": INT,
        **dict.fromkeys(("train_loss", "update_norm", "seconds"), FLOAT),
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
    "metrics": {"round": INT, "name": STRING, "value": FLOAT},
    "partitions": {"partition_id": STRING, "client": INT, "label": INT, "label_name": STRING, "count": LONG},
}
"""The columns of each table that are its own: all of them for `partitions`, which runs share."""

PER_RUN = tuple(table for table in OWN if table != "partitions")

SCHEMAS: dict[str, pa.Schema] = {
    table: pa.schema(list(({"run": STRING, **GROUPING, **own} if table in PER_RUN else own).items()))
    for table, own in OWN.items()
}

Columns = dict[str, list[Any]]
"""A table's own columns as plain Python values, what the journal holds as JSON; a time is milliseconds since 1970 UTC."""


def to_columns(table: str, rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Rows as columns; a value that a row does not give is null, one that the table does not have is a ValueError."""
    columns: Columns = {name: [] for name in OWN[table]}
    for row in rows:
        if not row.keys() <= columns.keys():
            raise ValueError(f"table {table!r} has no column {sorted(row.keys() - columns.keys())}")
        for name, values in columns.items():
            values.append(_plain(row.get(name)))
    return columns


def to_rows(columns: Columns) -> list[dict[str, Any]]:
    """The inverse of `to_columns`."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def to_batch(table: str, columns: Columns) -> pa.Table:
    """Columns as Arrow, typed; a value of the wrong type raises Arrow's own TypeError or ValueError."""
    return pa.table([pa.array(columns[name], type_) for name, type_ in OWN[table].items()], names=list(OWN[table]))


def join_batches(table: str, batches: list[pa.Table], run: str, grouping: Mapping[str, Any]) -> pa.Table:
    """The whole table of one run: the run and its grouping columns repeated in front of the batches' rows."""
    own = pa.concat_tables([to_batch(table, to_columns(table, [])), *batches])
    common = {"run": run, **grouping}
    repeated = [pa.repeat(pa.scalar(common[name], type_), len(own)) for name, type_ in _COMMON.items()]
    return pa.table(repeated + own.columns, schema=SCHEMAS[table])


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rounds say about their run: how many, the last evaluation, and the first round with the best accuracy."""
    evaluated = [row for row in rounds if row["test_accuracy"] is not None]
    last = evaluated[-1] if evaluated else {}
    numbers = [row for row in evaluated if not math.isnan(row["test_accuracy"])]
    best = max(numbers, key=lambda row: row["test_accuracy"], default={})
    return {
        "rounds_done": len(rounds),
        "final_test_accuracy": last.get("test_accuracy"),
        "final_test_loss": last.get("test_loss"),
        "best_test_accuracy": best.get("test_accuracy"),
        "best_round": best.get("round"),
    }


_COMMON = {"run": STRING, **GROUPING}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return value.item() if isinstance(value, np.generic) else value
