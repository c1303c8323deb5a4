"""The table at the end of a sweep: the axes, and the results as mean and standard deviation over seeds."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fedray.core.metrics import sign
from fedray.results.analysis import reported, to_target_by
from fedray.results.clock import by_cpu, has_cpu_seconds, in_flight_together
from fedray.results.comparison import COMPLETE
from fedray.results.frames import Results
from fedray.results.schema import FAILED_STATUSES
from fedray.sweep.reasons import gist

if TYPE_CHECKING:
    import pandas as pd

ACCURACIES = {
    "final_validation_accuracy": "validation accuracy",
    "final_test_accuracy": "final accuracy",
    "best_test_accuracy": "best accuracy",
    "final_client_accuracy": "clients' accuracy",
}
BEST = {"test_accuracy": "best_test_accuracy", "client_accuracy": "best_client_accuracy"}


def measures_of(results: Results) -> tuple[dict[str, str], dict[str, str]]:
    """The columns of `runs` that are shown, with their headings, and the best value of each measure that may judge.

    The measure that judges the runs comes first; accuracies are shown in any case.
    """
    column = reported(results)
    if column == "test_accuracy":
        return ACCURACIES, BEST
    said = column.partition("_")[2].replace("_", " ")
    if column == "client_loss":
        return {"final_client_loss": "clients' loss", **ACCURACIES}, {column: "best_client_loss", **BEST}
    first = {
        f"final_{column.replace('test', 'validation')}": f"validation {said}",
        f"final_{column}": f"final {said}",
        f"best_{column}": f"best {said}",
    }
    return first | ACCURACIES, {column: f"best_{column}", **BEST}


def summary(results: Results, runs: Sequence[str], axes: Sequence[str], target: float | None = None) -> Table:
    """The table of these runs, grouped by `axes`, names of settings.

    `target` is the accuracy, a fraction, or the value of what judges instead, to which rounds and seconds are counted;
    by default `fitting_target` chooses it. Means are over the runs that ended and did not diverge. Of runs in flight
    together, seconds are the CPU time of training.
    """
    results = dataclasses.replace(results, runs=results.runs[results.runs["run"].isin(runs)])
    clock = "seconds"
    if in_flight_together(results) and has_cpu_seconds(results):
        results, clock = by_cpu(results), "CPU seconds"
    rows = results.runs.reset_index(drop=True)
    rows = rows.assign(order=rows["run"].map({run: place for place, run in enumerate(runs)})).sort_values("order")
    done = rows["status"].isin(COMPLETE)
    names = [name for name in axes if name in rows]
    headings, bests = measures_of(dataclasses.replace(results, runs=rows))
    shown = [name for name in headings if rows.loc[done, name].notna().any()]
    measure = next((name for name, best in bests.items() if rows.loc[done, best].notna().any()), "test_accuracy")
    if target is None:
        by_group = rows.loc[done].groupby(names or (lambda _: 0), dropna=False)[bests[measure]].mean()
        target = fitting_target(sign(measure) * (sign(measure) * by_group).max(), measure)
    ways = ways_to(dataclasses.replace(results, runs=rows[done]), target, names, measure)
    table = Table(box=None, pad_edge=False)
    to = [] if target is None else [f"{way} to {said_of(target, measure)}" for way in ("rounds", clock)]
    reasons = rows["status"].isin(FAILED_STATUSES).any()  # they wrap, so that no number has to
    for heading in (*names, "runs", *(headings[name] for name in shown), *to, "rounds", clock, ""):
        table.add_column(
            heading, justify="left" if heading in (*names, "") else "right", no_wrap=bool(heading and reasons)
        )
    for _, group in rows.groupby(names or (lambda _: 0), dropna=False, sort=False):
        ended = group[done.loc[group.index]]
        runs_done = str(len(group)) if len(ended) == len(group) else f"{len(ended)} of {len(group)}"
        key = tuple(written(group[name].iloc[0]) for name in names)
        means = [f"{ended[name].mean():.4g}" if len(ended) else "" for name in ("rounds_done", "seconds")]
        accuracies = [mean_and_std(ended[name]) for name in shown]
        table.add_row(
            *key, runs_done, *accuracies, *(ways.get(key, ("", "")) if to else ()), *means, Text(trouble(group))
        )
    return table


def fitting_target(best: float | None, measure: str = "test_accuracy") -> float | None:
    """A target: the highest whole percent that is at most 90 % of the best accuracy, as a fraction; None below 1 %.

    Of other measures than shares it has two digits: at most 90 % of the best, or at least 110 % where less is better.
    """
    if best is None or not math.isfinite(best):
        return None
    if is_share(measure):
        return math.floor(90 * best) / 100 or None
    if best <= 0:
        return None
    goal = best * (0.9 if sign(measure) > 0 else 1.1)
    step = 10.0 ** (math.floor(math.log10(goal)) - 1)
    rounded = math.floor(goal / step) if sign(measure) > 0 else math.ceil(goal / step)
    return float(f"{rounded * step:.2g}")


def is_share(measure: str) -> bool:
    """Whether a measure is a fraction that is written in percent."""
    return measure.endswith(("accuracy", "_f1", "_auc"))


def said_of(target: float, measure: str) -> str:
    return f"{100 * target:g} %" if is_share(measure) else f"{target:g}"


def ways_to(
    results: Results, target: float | None, names: Sequence[str], measure: str
) -> Mapping[tuple[str, ...], tuple[str, str]]:
    """The mean rounds and seconds to the target for each group, with how many of its runs reached it if not all did."""
    if target is None or results.runs.empty:
        return {}
    found = {}
    for row in to_target_by(results, target, names, measure).to_dict("records"):
        missed = "" if row["reached"] == row["runs"] else f" ({row['reached']} of {row['runs']})"
        rounds, seconds = (f"{row[f'{way}_mean']:.4g}" if row["reached"] else "never" for way in ("rounds", "seconds"))
        said = missed if row["reached"] else ""
        found[tuple(written(row[name]) for name in names)] = rounds + said, seconds + said
    return found


def written(value: Any) -> str:
    """A setting's value from a table, as a user would write it; an empty text if the run lacks the setting."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(written, value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def mean_and_std(values: "pd.Series[float]") -> str:
    known = values.dropna()
    if known.empty:
        return ""
    return f"{known.mean():.4f}" + (f" ± {known.std():.4f}" if len(known) > 1 else "")


def trouble(group: "pd.DataFrame") -> str:
    """The number of runs of a group with each status that is no good end, and why they failed."""
    counts = group["status"].value_counts()
    return ", ".join(
        f"{counts[status]} {status}{reason(group['error'][group['status'] == status], status)}"
        for status in (*BAD_ENDS, "running", "killed", "interrupted")
        if status in counts
    )


def reason(errors: "pd.Series[str]", status: str) -> str:
    """The most frequent reason of runs that failed, as the end of a phrase; empty for runs that did not fail.

    Reasons that differ in numbers alone, such as which client it was, are one.
    """
    alike: dict[str, list[str]] = {}
    for text in filter(None, map(gist, errors.dropna() if status in FAILED_STATUSES else ())):
        alike.setdefault(re.sub(r"\d+", "", text), []).append(text)
    if not alike:
        return ""
    most, *others = sorted(alike.values(), key=len, reverse=True)
    return f": {most[0]}" + (f" (and {len(others)} more)" if others else "")


BAD_ENDS = ("diverged", *FAILED_STATUSES, "halved")
