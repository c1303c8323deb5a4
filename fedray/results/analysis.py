"""Common questions to results: curves as mean and interval, and the way to a target.

Every function takes the `Results` that `fedray.results.load` returns and changes nothing. Settings go by the column
names of `results.runs`: `algorithm`, `lr`, `algorithm.mu`. A run whose row in `runs` could not be read is left out.
Of a column whose name ends in `loss`, `mae` or `rmse` less is better, of every other one more. Without a `value` it is
the measure that the runs are judged by, on the test set: `test_accuracy` by default.

Spread is over runs, each of which counts as one sample: `std` divides by n - 1, an interval is Student's t for the
mean. Both are NaN for a single run. To have seeds alone in them, group by all else that varies (`varied`).
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.metrics import sign
from fedray.results.schema import GROUPING, OWN, judging_column

if TYPE_CHECKING:
    import pandas as pd

    from fedray.results.frames import Results

COSTS = ("seconds", "bytes")
WAYS = ("rounds", *COSTS)
SPREAD = ("runs", "mean", "std", "low", "high")
MOST_POINTS = 200


def curves(
    results: "Results",
    by: str | Sequence[str] = (),
    value: str | None = None,
    over: str = "round",
    confidence: float = 0.95,
) -> "pd.DataFrame":
    """The mean of `value`, a column of `rounds`, over the runs of each group at each point of `over`.

    `over` is "round", or "seconds", "cpu_seconds" (of training) or "bytes" (both ways) since the start of the run. For
    these three every run's curve is interpolated, within its own span, at evenly spaced points, as many as its group's
    longest curve has, 200 at most. Columns: those of `by`, `over`, `runs` (how many have a value there), `mean`, `std`,
    `low`, `high`.
    """
    names = settings_columns(results, by)
    check_choice("over", over, ("round", *COSTS, "cpu_seconds"))
    value = value or reported(results)
    points = _points(results, value).merge(results.runs[["run", *(name for name in names if name != "run")]], on="run")
    if over != "round":
        points = _on_a_grid(points.dropna(subset=over), names, over)
    return spread(points, [*names, over], "value", confidence)


def to_target(results: "Results", target: float, value: str | None = None) -> "pd.DataFrame":
    """The rounds, seconds and bytes of each run until `value` first reached `target`, NaN where it never did.

    Columns: `run`, the grouping columns, and up to the end of that round `rounds`, `seconds` and `bytes` (both ways).
    """
    value = value or reported(results)
    points = _points(results, value)
    ahead = sign(value) * (points["value"] - target) >= 0
    first = points[ahead].groupby("run", as_index=False).first().rename(columns={"round": "rounds"})
    runs = results.runs[["run", *GROUPING]]
    return runs.merge(first[["run", *WAYS]].astype(dict.fromkeys(WAYS, float)), on="run", how="left")


def to_target_by(
    results: "Results", target: float, by: str | Sequence[str] = (), value: str | None = None
) -> "pd.DataFrame":
    """`to_target` by group: the count of `runs`, the count that `reached` the target, and the mean and std of those.

    Columns: those of `by`, `runs`, `reached`, `rounds_mean`, `rounds_std`, `seconds_mean`, ... `bytes_std`.
    """
    names = settings_columns(results, by)
    # The columns get names of their own, since one setting is called rounds.
    settings = results.runs[["run"]].assign(**{f"by {name}": results.runs[name] for name in names})
    rows = groups(to_target(results, target, value).merge(settings, on="run"), [f"by {name}" for name in names])
    counted = {"runs": ("run", "count"), "reached": ("rounds", "count")}
    found = rows.agg(**counted, **{f"{way}_{what}": (way, what) for way in WAYS for what in ("mean", "std")})
    return _ungrouped(found, names)


def spread(frame: "pd.DataFrame", by: Sequence[str], value: str, confidence: float = 0.95) -> "pd.DataFrame":
    """Columns `by`, `runs` (rows with a `value`), `mean`, `std`, `low`, `high`: a row for each group, also of nulls."""
    from scipy.special import stdtrit

    if not 0 < confidence < 1:
        raise BadInputError(f"confidence = {confidence} must be between 0 and 1, as 0.95 is")
    found = groups(frame, by)[value].agg(runs="count", mean="mean", std="std")
    half = stdtrit(found["runs"] - 1, 0.5 + confidence / 2) * found["std"] / np.sqrt(found["runs"])
    return _ungrouped(found.assign(low=found["mean"] - half, high=found["mean"] + half), by)


def groups(frame: "pd.DataFrame", by: Sequence[str]) -> Any:
    """The frame grouped by columns, in which nulls count as a value. Without columns it is one group."""
    return frame.groupby(list(by) or np.zeros(len(frame), dtype=int), dropna=False)


def judged_measure(results: "Results") -> str:
    """The measure that these runs are judged by (`evaluation.judged_by`): `accuracy` unless all have the same other."""
    columns = {judging_column(judged_by) for judged_by in results.runs["judged_by"].dropna()}
    measures = {column.partition("_")[2] for column in columns}
    return measures.pop() if len(measures) == 1 else "accuracy"


def reported(results: "Results") -> str:
    """The column of `rounds` that is looked at unless another is named: the judged measure on the test set.

    It is the clients' loss where that judges, for which there is no model to test.
    """
    of_clients = (results.runs["judged_by"].dropna() == "client_loss").all() and results.runs["judged_by"].notna().any()
    return "client_loss" if of_clients else f"test_{judged_measure(results)}"


def settings_columns(results: "Results", given: str | Sequence[str]) -> list[str]:
    """The names as a list; BadInputError where one is no column of `runs` to group by."""
    names = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    for name in names:
        _check("setting", name, [known for known in map(str, results.runs) if known not in OWN["rounds"]])
    return names


def check_value(name: str) -> None:
    """Raise BadInputError where `name` is no column of `rounds` with a number to look at."""
    numbers = [known for known in OWN["rounds"] if known not in ("round", "finished_at")]
    _check("column of numbers in rounds", name, numbers)


def check_choice(argument: str, given: str, choices: Sequence[str]) -> None:
    """Raise BadInputError where `given` is none of the choices."""
    if given not in choices:
        raise BadInputError(f"{argument} = {given!r} is not one of {', '.join(choices)}")


def _check(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        nearest = get_close_matches(str(name), known, n=1, cutoff=0.0)
        raise BadInputError(f"there is no {what} {name!r}" + (f"; the nearest is {nearest[0]!r}" if nearest else ""))


def _ungrouped(found: "pd.DataFrame", names: Sequence[str]) -> "pd.DataFrame":
    if not names:
        return found.reset_index(drop=True)
    return found.rename_axis(index=list(names)).reset_index()


def _points(results: "Results", value: str) -> "pd.DataFrame":
    """The rounds with a `value`: run, round, seconds, CPU seconds and bytes since the run's start, value; in order.

    CPU seconds are null for a run with a round that lacks them.
    """
    check_value(value)
    rounds = results.rounds.sort_values(["run", "round"], ignore_index=True)
    spent = {"seconds": rounds["seconds"], "bytes": rounds["bytes_down"] + rounds["bytes_up"]}
    sums = {name: each.fillna(0).groupby(rounds["run"]).cumsum() for name, each in spent.items()}
    known = rounds["cpu_seconds"].notna().groupby(rounds["run"]).transform("all")
    sums["cpu_seconds"] = rounds["cpu_seconds"].groupby(rounds["run"]).cumsum().where(known)
    return rounds[["run", "round"]].assign(**sums, value=rounds[value]).dropna(subset="value")


def _on_a_grid(points: "pd.DataFrame", names: Sequence[str], over: str) -> "pd.DataFrame":
    """The points of each run moved to its group's grid along `over`."""
    import pandas as pd

    parts = [points[[*names, over, "value"]].iloc[:0]]
    for _, group in groups(points, names):
        runs = [run for _, run in group.groupby("run")]
        grid = np.linspace(group[over].min(), group[over].max(), min(MOST_POINTS, max(map(len, runs))))
        for run in runs:
            within = grid[(grid >= run[over].iloc[0]) & (grid <= run[over].iloc[-1])]
            part = run[list(names)].iloc[[0] * len(within)]
            parts.append(part.assign(**{over: within, "value": np.interp(within, run[over], run["value"])}))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
