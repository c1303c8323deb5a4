"""What runs left on disk, read back for pandas; results/README.md documents every table and column."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fedray.errors import BadInputError
from fedray.tables import FINAL_STATUSES, PER_RUN, SCHEMAS, read_journal, read_parquet, read_run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FINAL_STATUSES", "SCHEMAS", "Results", "load", "status"]


@dataclass(frozen=True)
class Results:
    """The tables of some results as pandas DataFrames; results/README.md documents their columns.

    `runs` has, besides those, every setting under its dotted name (`algorithm.lr`).
    """

    runs: "pd.DataFrame"
    rounds: "pd.DataFrame"
    clients: "pd.DataFrame"
    population: "pd.DataFrame"
    partitions: "pd.DataFrame"
    metrics: "pd.DataFrame"
    evaluations: "pd.DataFrame"


def load(name: str, root: str | Path = "results", run: str | None = None) -> Results:
    """Read all tables of `name`, or of one run there, with what a killed or running process has only in its journal.

    BadInputError where there are no such results (it names the nearest) or a file is damaged (it names the file).
    """
    folder = Path(root) / name
    if not name or not folder.is_dir():
        raise BadInputError(_missing(name, Path(root)))
    # Journals first: one that a finishing run removes after this look is not needed, its tables being complete.
    wanted = run or "[!.]*"
    journals = {path.stem: read_journal(path) for path in folder.glob(f"journal/{wanted}.jsonl")}
    parts: dict[str, list[pa.Table]] = {table: [SCHEMAS[table].empty_table()] for table in SCHEMAS}
    for each in sorted({path.stem for path in folder.glob(f"runs/{wanted}.parquet")} | journals.keys()):
        for table, part in read_run(folder, each, journals.get(each)).items():
            parts[table].append(part)
    frames = {table: pa.concat_tables(parts[table]).to_pandas() for table in PER_RUN}
    used = {f"{each}.parquet" for each in frames["runs"]["partition_id"].dropna()}
    for path in sorted(folder.glob("partitions/[!.]*.parquet")):
        if path.name in used or run is None:
            parts["partitions"].append(read_parquet(path, "partitions"))
    frames["partitions"] = pa.concat_tables(parts["partitions"]).to_pandas()
    return Results(**frames | {"runs": _with_settings(frames["runs"])})


def status(root: str | Path, name: str, run: str) -> str | None:
    """The status of a run, None where it never started; BadInputError where its file is damaged.

    `running` is also what a killed process leaves behind.
    """
    path = Path(root) / name / "runs" / f"{run}.parquet"
    if not path.exists():
        return None
    rows = read_parquet(path, "runs")["status"].to_pylist()
    if len(rows) != 1:
        raise BadInputError(f"the results file {path} has {len(rows)} rows, not one")
    return str(rows[0])


def _with_settings(runs: "pd.DataFrame") -> "pd.DataFrame":
    """The runs with each setting as a column, but for settings that are a column already."""
    import pandas as pd

    rows = [dict(_flatten(json.loads(text))) for text in runs["settings"].dropna()]
    settings = pd.DataFrame(rows, index=runs.index[runs["settings"].notna()])
    return runs.join(settings.drop(columns=[name for name in settings if name in runs]))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value  # a tuple can be grouped by


def _missing(name: str, root: Path) -> str:
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"there are no results {name!r} in {root}" + (f"; the nearest name is {nearest[0]!r}" if nearest else "")
