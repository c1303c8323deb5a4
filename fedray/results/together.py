"""The runs of several results taken together, each once."""

import warnings
from collections.abc import Mapping

import pyarrow as pa

from fedray.results.files import some
from fedray.results.frames import RepeatedRunsWarning
from fedray.results.schema import FINAL_STATUSES

Tables = dict[str, dict[str, pa.Table]]
"""The tables of each run, by the table's name and the run's id."""


def merge(parts: Tables, found: Mapping[str, Mapping[str, pa.Table]], origin: dict[str, str], name: str) -> None:
    """Add to `parts` the runs that `found` has under `name`, and to `origin` the name that each run is from.

    A run that is there already is replaced where it has ended in `found` alone. A RepeatedRunsWarning names such runs.
    """
    repeated: dict[tuple[str, str], list[str]] = {}
    for run in sorted({run for files in found.values() for run in files}):
        first = origin.setdefault(run, name)
        if first != name:
            replaces = has_ended(found["runs"].get(run)) and not has_ended(parts["runs"].get(run))
            origin[run], other = (name, first) if replaces else (first, name)
            repeated.setdefault((other, origin[run]), []).append(run)
            if not replaces:
                continue
        for table, files in found.items():
            parts[table].pop(run, None)
            if run in files:
                parts[table][run] = files[run]
    for (other, kept), runs in repeated.items():
        how = "which counts once, as it is" if len(runs) == 1 else "which count once, as they are"
        which = f"{other} has {len(runs)} of the runs that {kept} has, {how} in {kept}"
        warnings.warn(f"{which}: {some(runs)}", RepeatedRunsWarning, stacklevel=4)  # whoever called load


def has_ended(row: pa.Table | None) -> bool:
    return row is not None and row["status"][0].as_py() in FINAL_STATUSES
