"""The comparison that the report is about: configurations, the settings that tell them apart, and their results."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedray.core.metrics import sign
from fedray.report import wording
from fedray.results.analysis import reported, to_target_by
from fedray.results.clock import by_cpu, has_cpu_seconds, in_flight_together
from fedray.results.comparison import COMPLETE, varied
from fedray.results.frames import Results
from fedray.sweep.summary import fitting_target, is_share

if TYPE_CHECKING:
    import pandas as pd

ACCURACIES = ("test_accuracy", "client_accuracy")
AT_ONCE = 10
"""The number of curves that a reader can tell apart in one chart."""


@dataclass(frozen=True)
class Study:
    """Results by configuration. The runs of a configuration differ in their seed only.

    The key of the best configuration is `s00`, of the next `s01`, and so on. `results.runs` has two more columns here:
    `series`, the key of the run's configuration, and `bytes`, the bytes that the run sent.
    """

    name: str
    results: Results
    axes: tuple[str, ...]
    """The settings that tell configurations apart, without those that follow from others (FedProx's only mu)."""
    varied: tuple[str, ...]
    """All settings that differ."""
    configurations: "pd.DataFrame"
    """By key, best first: `label`, the axes, `runs` (their number), `good` (how many ended without diverging),
    `complete` (whether all did), and mean and std of the TOTALS of the good runs, or of all runs if none is good."""
    measure: str | None
    """The column of `rounds` that configurations are compared by: what judges the runs, by default the first accuracy
    that each of them has."""
    chosen_by: str | None
    """The column that orders the configurations: on the validation split if each has one, otherwise `measure`."""
    target: float | None
    """The value of `measure`, of an accuracy a fraction, to which rounds, seconds and bytes are counted."""
    all_bands: bool = False
    """Whether curves have bands however many there are."""
    named: bool = False
    """Whether the user gave configurations names of their own."""
    shared: bool = False
    """Whether runs were in flight together, so that their wall-clock times are of shared cores."""
    clock: Literal["time", "CPU time"] = "time"
    """What `seconds` of `results` is: CPU time of training where runs were in flight together and have it."""

    @property
    def in_percent(self) -> bool:
        """Whether `measure` is a share, which is written in percent."""
        return is_share(self.measure or "test_accuracy")

    @property
    def as_loaded(self) -> Results:
        """The results without the columns that this study added to them."""
        return dataclasses.replace(self.results, runs=self.results.runs.drop(columns=["series", "bytes"]))

    @property
    def counted(self) -> "pd.DataFrame":
        """The runs that figures count: the good ones, and all runs of configurations without a good one."""
        runs = self.results.runs
        return runs[runs["status"].isin(COMPLETE) | (runs["series"].map(self.configurations["good"]) == 0)]

    @property
    def keys(self) -> list[str]:
        return list(self.configurations.index)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.configurations["label"])

    @property
    def shown(self) -> list[str]:
        """The configurations that charts show at first: all, or the best if all are too many to tell apart."""
        return self.keys if len(self.keys) <= AT_ONCE + 2 else self.keys[:AT_ONCE]


TOTALS = (
    *(f"{at}_{name}" for at in ("final", "best") for name in ACCURACIES),
    *("final_validation_accuracy", "final_test_loss", "rounds_done", "seconds", "bytes"),
)


def totals_of(measures: Sequence[str]) -> tuple[str, ...]:
    """TOTALS, and the columns of `runs` on the measures that may judge."""
    more = [f"{at}_{name}" for name in measures for at in ("final", "best")]
    more += [f"final_{name.replace('test', 'validation')}" for name in measures if name.startswith("test_")]
    return tuple(dict.fromkeys((*TOTALS, *more)))


def make_study(name: str, results: Results, target: float | None = None, all_bands: bool = False) -> Study:
    """Group the runs into configurations, best first. `target` is a fraction; None for one that suits the results."""
    shared = in_flight_together(results)
    timed = shared and has_cpu_seconds(results)
    if timed:
        results = by_cpu(results)
    differing = varied(results)
    axes = telling(results.runs, differing)
    runs = results.runs.assign(
        series=numbered(results.runs, differing), bytes=results.runs["run"].map(bytes_of_runs(results))
    )
    judge = reported(results)
    measures = tuple(dict.fromkeys((judge, *ACCURACIES)))
    measure = common_measure(runs, measures)
    held_out = f"validation_{judge.partition('_')[2]}"
    chosen_by = held_out if judge != "client_loss" and all_have(runs, held_out, measure) else measure
    table = summed_up(runs, axes, totals_of(measures))
    order = ["complete"] if chosen_by is None else ["complete", f"final_{chosen_by}_mean"]
    ascending = [False] if chosen_by is None else [False, sign(chosen_by) < 0]
    table = table.sort_values(order, ascending=ascending, kind="stable", na_position="last")
    keys = {number: f"s{rank:02d}" for rank, number in enumerate(table.index)}
    table = table.rename(index=keys)
    return Study(
        name=name,
        results=dataclasses.replace(results, runs=runs.assign(series=runs["series"].map(keys))),
        axes=tuple(axes),
        varied=tuple(differing),
        configurations=table,
        measure=measure,
        chosen_by=chosen_by,
        target=target or (fitting_target(best_of(table, measure), measure) if measure else None),
        all_bands=all_bands,
        shared=shared,
        clock="CPU time" if timed else "time",
    )


def telling(runs: "pd.DataFrame", names: list[str]) -> list[str]:
    """The names without those that only some runs have and whose values follow from the settings before them."""
    kept: list[str] = []
    for name in names:
        splits = len(runs[[*kept, name]].drop_duplicates()) > (len(runs[kept].drop_duplicates()) if kept else 1)
        if splits or runs[name].notna().all():
            kept.append(name)
    return kept


def numbered(runs: "pd.DataFrame", names: list[str]) -> "pd.Series[int]":
    """The configuration of each run as a number, ordered by the values of its settings."""
    if not names:
        return runs["seed"] * 0
    order = runs[names].sort_values(names, key=lambda column: column if column.dtype != object else column.map(str))
    return runs.loc[order.index].groupby(names, dropna=False, sort=False).ngroup()


def bytes_of_runs(results: Results) -> "pd.Series[float]":
    """The bytes that each run sent, both ways, by run."""
    rounds = results.rounds
    return (rounds["bytes_down"] + rounds["bytes_up"]).groupby(rounds["run"]).sum().astype(float)


def best_of(table: "pd.DataFrame", measure: str) -> float:
    column = table[f"best_{measure}_mean"]
    return float(column.max() if sign(measure) > 0 else column.min())


def common_measure(runs: "pd.DataFrame", measures: Sequence[str] = ACCURACIES) -> str | None:
    present = [name for name in measures if runs[f"final_{name}"].notna().any()]
    measured = runs[runs[[f"final_{name}" for name in measures]].notna().any(axis="columns")]
    return next((name for name in present if all_have(measured, name)), present[0] if present else None)


def all_have(runs: "pd.DataFrame", name: str, where: str | None = None) -> bool:
    """Whether each configuration has a final value of `name` in some run; with `where`, each that has one of that."""
    known = runs if where is None else runs[runs[f"final_{where}"].notna()]
    return bool(len(known)) and bool(known[f"final_{name}"].notna().groupby(known["series"]).any().all())


def summed_up(runs: "pd.DataFrame", axes: list[str], names: Sequence[str] = TOTALS) -> "pd.DataFrame":
    """`Study.configurations`, by the numbers in `series`."""
    import pandas as pd

    rows = {}
    for number, group in runs.groupby("series"):
        good = group[group["status"].isin(COMPLETE)]
        totals = (good if len(good) else group)[list(names)].astype(float)
        settings = {name: group[name].iloc[0] for name in axes}
        rows[number] = {
            "label": wording.label(settings) or group["algorithm"].iloc[0],
            **settings,
            "runs": len(group),
            "good": len(good),
            "complete": len(good) == len(group),
            **{f"{name}_mean": totals[name].mean() for name in names},
            **{f"{name}_std": totals[name].std() for name in names},
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def way_to_target(study: Study) -> "pd.DataFrame":
    """The columns of `to_target_by` for each key, over the runs in `Study.counted`; empty without a target."""
    import pandas as pd

    if study.target is None or study.measure is None:
        return pd.DataFrame()
    results = dataclasses.replace(study.results, runs=study.counted)
    return to_target_by(results, study.target, by="series", value=study.measure).set_index("series")


def is_numeric(column: "pd.Series[Any]") -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def ordered(column: "pd.Series[Any]") -> list[Any]:
    """The distinct values in order. A missing value is None and comes first."""
    known = column.dropna().drop_duplicates()
    known = known.sort_values(key=None if is_numeric(known) else lambda each: each.map(str))
    return ([None] if column.isna().any() else []) + known.tolist()
