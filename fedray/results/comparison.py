"""Settings compared: the best configuration of each group, and two settings on the same seeds.

As in analysis.py, settings go by the column names of `results.runs`, of a column named `..._loss`, `..._mae` or
`..._rmse` less is better, and the default is the measure that the runs are judged by.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.metrics import sign
from fedray.results.analysis import (
    SPREAD,
    check_choice,
    check_value,
    groups,
    judged_measure,
    reported,
    settings_columns,
    spread,
)
from fedray.results.correction import holm
from fedray.results.schema import FINAL_STATUSES, FOLDER, GROUPING, REPEATS, SCHEMAS

if TYPE_CHECKING:
    import pandas as pd

    from fedray.results.frames import Results

At = Literal["final", "best"]
"""A run's last evaluated round, or its best one."""

COMPLETE = tuple(status for status in FINAL_STATUSES if status != "diverged")

DECIDED = ("data_format", "engine", "blocks", "model.channels_last", "evaluation.clients_every")
"""Settings that fedray decides from others unless it is told. `engine` and `blocks` are those that trained a run."""


def varied(results: "Results") -> list[str]:
    """The settings, but for the seed, in which the runs differ; one name for each.

    Settings that fedray decides from others (`blocks`, `engine`, ...) are left out where the others explain them. So
    are the sections [cluster] and [output]. The column `folder` of several results is among them where two of these
    have runs of the same settings and seed.
    """
    return _varied(results.runs)


def best(
    results: "Results",
    per: str | Sequence[str] = (),
    choose: str | None = None,
    report: str | None = None,
    at: At = "final",
    confidence: float = 0.95,
) -> "pd.DataFrame":
    """The configuration of each group with the best mean of `choose` over its runs, and its mean of `report`.

    A configuration is a value for each of the `varied` settings that `per` leaves open. `choose` and `report` are
    columns of `rounds`, taken at the same round of a run: its "final" evaluated one, or the "best" by `choose`, never
    by `report`. `choose` is by default validation_accuracy, or what
    judges instead of accuracy there, where all evaluated runs of the group have it. Otherwise it
    is `report` itself, which makes the number too good; `chosen_by` tells. A configuration with a run that failed,
    diverged, was halved or has not ended is chosen only where no other is left; `complete` is then False.

    Columns: those of `per`, the settings left open, `chosen_by`, `chosen` (its mean), `complete`, and of `report`
    `runs`, `mean`, `std`, `low`, `high`. A group without any value has a row of nulls.
    """
    import pandas as pd

    fixed, report = settings_columns(results, per), report or reported(results)
    check_choice("at", at, ("final", "best"))
    closed = _with_aliases(fixed)
    free = [name for name in _varied(results.runs) if name not in closed]
    rows = []
    for _, runs in groups(results.runs, fixed):
        by = choose or _judge(results, runs, report)
        measured = runs.merge(_at(results, by, report, at), on="run", how="left")
        chosen = _configuration(measured, free, sign(by))
        settings = chosen.iloc[0][free].to_dict() if len(chosen) else dict.fromkeys(free)
        mean = {"chosen_by": by, "chosen": chosen["chosen"].mean(), "complete": bool(chosen["whole"].any())}
        rows.append(runs.iloc[0][fixed].to_dict() | settings | mean | _spread_of(chosen["reported"], confidence))
    return pd.DataFrame(rows, columns=[*fixed, *free, "chosen_by", "chosen", "complete", *SPREAD])


@dataclass(frozen=True)
class Comparison:
    """The difference between two settings `a` and `b` on the same seeds, with its interval and p value."""

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    value: str
    difference: float
    """Mean of a - b over the pairs."""
    low: float
    high: float
    """Student's t interval of `difference`; NaN for one pair."""
    p_value: float
    """The p value of the paired two-sided t-test: the chance of so large a difference where there is none.

    NaN for one pair.
    """
    pairs: int
    mean_a: float
    mean_b: float
    """Over the runs in the pairs."""
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    """Seeds of runs without a partner, which count nowhere."""
    confidence: float
    p_adjusted: float
    """`p_value` corrected for the number of comparisons made at once, by Holm's method; for one it is `p_value`."""


@overload
def compare(
    results: "Results",
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    value: str | None = None,
    at: At = "final",
    confidence: float = 0.95,
) -> Comparison: ...


@overload
def compare(
    results: "Results",
    a: Mapping[str, Any],
    b: Sequence[Mapping[str, Any]],
    value: str | None = None,
    at: At = "final",
    confidence: float = 0.95,
) -> list[Comparison]: ...


def compare(
    results: "Results",
    a: Mapping[str, Any],
    b: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    value: str | None = None,
    at: At = "final",
    confidence: float = 0.95,
) -> Comparison | list[Comparison]:
    """Compare the runs with settings `a` to those with `b`, as in {"algorithm": "fedprox", "algorithm.mu": 0.1}.

    `b` may be a list of several settings. `a` is then compared to each, and `p_adjusted` takes into account that the
    more is compared, the more differs by chance. Intervals are those of each comparison alone.

    A pair has the same seed and the same of all else that varies and is named in neither, but for settings that only
    one side has (an algorithm's own). Runs that have not ended, and runs without a value, have no partner. At "best",
    a run's round is the one with the best validation_accuracy where all of them have it, otherwise the best `value`.
    BadInputError where nothing fits, where a run has two partners, or where there is no pair.
    """
    check_choice("at", at, ("final", "best"))
    value = value or reported(results)
    if isinstance(b, Mapping):
        return _compare(results, a, b, value, at, confidence)
    if not b:
        raise BadInputError("the list of settings to compare with is empty; name at least one")
    found = [_compare(results, a, each, value, at, confidence) for each in b]
    adjusted = holm([each.p_value for each in found])
    return [replace(each, p_adjusted=p) for each, p in zip(found, adjusted, strict=True)]


def _compare(
    results: "Results", a: Mapping[str, Any], b: Mapping[str, Any], value: str, at: At, confidence: float
) -> Comparison:
    sides = [_fitting(results, "a", a), _fitting(results, "b", b)]
    if (sides[0] & sides[1]).any():
        raise BadInputError(f"run {results.runs['run'][sides[0] & sides[1]].iloc[0]} fits both a and b")
    judge = _judge(results, results.runs[sides[0] | sides[1]], value)
    pairs = _pairs(results.runs, sides, _at(results, judge, value, at), [*a, *b])
    found = _spread_of(pairs["reported_x"] - pairs["reported_y"], confidence)
    only_a, only_b = (
        tuple(sorted(int(seed) for seed in results.runs["seed"][side & ~results.runs["run"].isin(runs)]))
        for side, runs in zip(sides, (pairs["run_x"], pairs["run_y"]), strict=True)
    )
    p_value = _p_value(found["mean"], found["std"], len(pairs))
    return Comparison(
        a=a,
        b=b,
        value=value,
        difference=found["mean"],
        low=found["low"],
        high=found["high"],
        p_value=p_value,
        pairs=len(pairs),
        mean_a=float(pairs["reported_x"].mean()),
        mean_b=float(pairs["reported_y"].mean()),
        only_a=only_a,
        only_b=only_b,
        confidence=confidence,
        p_adjusted=p_value,
    )


def _varied(runs: "pd.DataFrame") -> list[str]:
    own = [name for name in map(str, runs) if name not in SCHEMAS["runs"].names]
    ignored = {"seed", "data.root", FOLDER, *REPEATS.values(), *DECIDED}
    names = [
        name
        for name in (*GROUPING, *own)
        if name not in ignored and not name.startswith(("cluster.", "output.")) and _differs(runs[name])
    ]
    for name in DECIDED:
        if name in runs and any(_differs(group[name]) for _, group in groups(runs, names)):
            names.append(name)
    if FOLDER in runs and runs.groupby([*names, "seed"], dropna=False)[FOLDER].nunique().gt(1).any():
        names.append(FOLDER)
    return names


def _differs(column: "pd.Series[Any]") -> bool:
    codes = column.factorize()[0]  # one code for None and NaN
    return bool((codes != codes[:1]).any())


def _with_aliases(names: Iterable[str]) -> set[str]:
    given = set(names)
    return given.union(*(pair for pair in REPEATS.items() if given & set(pair)))


def _spread_of(values: "pd.Series[Any]", confidence: float) -> dict[str, Any]:
    """The columns of SPREAD for all values together."""
    one = values.to_frame("value").assign(group=0)
    rows = spread(one, ["group"], "value", confidence).to_dict("records")
    return {name: rows[0][name] if rows else 0 if name == "runs" else np.nan for name in SPREAD}


def _p_value(mean: float, std: float, n: int) -> float:
    from scipy.special import stdtr

    if std == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) / (std / np.sqrt(n)))) if n > 1 else float("nan")


def _at(results: "Results", choose: str, report: str, at: At) -> "pd.DataFrame":
    """Columns run, chosen, reported: two columns of the same round, the last or the best that has both."""
    check_value(choose)
    check_value(report)
    rounds = results.rounds.sort_values(["run", "round"], ignore_index=True)
    known = rounds[["run"]].assign(chosen=rounds[choose], reported=rounds[report]).dropna()
    if at == "final":
        return known.groupby("run").tail(1)
    return known.loc[(sign(choose) * known["chosen"]).groupby(known["run"]).idxmax()]


def _judge(results: "Results", runs: "pd.DataFrame", report: str) -> str:
    """The column to choose by: validation_accuracy where all evaluated runs of these have it, otherwise `report`.

    Of runs that are judged by another measure it is that one's on the validation split.
    """
    check_value(report)
    rounds = results.rounds[results.rounds["run"].isin(runs["run"])]
    evaluated = rounds[rounds[report].notna()]
    judge = f"validation_{judged_measure(replace(results, runs=runs))}"
    validated = evaluated[judge].notna().groupby(evaluated["run"]).any()
    return judge if len(validated) and validated.all() else report


def _configuration(measured: "pd.DataFrame", free: Sequence[str], better: int) -> "pd.DataFrame":
    """The runs of the best configuration, with a column `whole`: of those without a flaw, where there are any.

    No rows where nothing was measured.
    """
    number = groups(measured, free).ngroup()
    flawless = measured["status"].isin(COMPLETE) & measured["chosen"].notna()
    whole = flawless.groupby(number).transform("all")
    means = (better * measured["chosen"]).groupby(number).transform("mean")
    if whole.any():
        means = means.where(whole)
    return measured.assign(whole=whole)[number == number[means.idxmax()] if means.notna().any() else number < 0]


def _fitting(results: "Results", which: str, settings: Mapping[str, Any]) -> "pd.Series[bool]":
    """The runs that have all these settings, as a mask."""
    fit = results.runs["run"].notna()
    for name in settings_columns(results, tuple(settings)):
        column, wanted = results.runs[name], settings[name]
        here = column.isna() if wanted is None else column.map(lambda found, wanted=wanted: found == wanted)
        if not (fit & here).any():
            others = ", ".join(sorted(map(str, column[fit].dropna().unique()))) or "none"
            raise BadInputError(f"no run that otherwise fits {which} has {name} = {wanted!r}; there is {others}")
        fit &= here
    return fit


def _pairs(
    runs: "pd.DataFrame", sides: Sequence["pd.Series[bool]"], measured: "pd.DataFrame", named: Iterable[str]
) -> "pd.DataFrame":
    """The runs of both sides that have ended and were measured, side by side with suffixes _x and _y."""
    closed = _with_aliases(named)
    left_open = [name for name in _varied(runs[sides[0] | sides[1]]) if name not in closed]
    key = ["seed", *(name for name in left_open if all(runs[name][side].notna().any() for side in sides))]
    ended = runs["status"].isin(FINAL_STATUSES)
    tables = [runs[side & ended].merge(measured, on="run") for side in sides]
    for table, which in zip(tables, "ab", strict=True):
        _check_alone(table, key, which, left_open)
    first, second = (table[[*key, "run", "reported"]] for table in tables)
    pairs = first.merge(second, on=key)
    if pairs.empty:
        raise BadInputError(f"no run that fits a has a partner in b, one with the same {' and '.join(key)}")
    return pairs


def _check_alone(runs: "pd.DataFrame", key: list[str], which: str, left_open: Sequence[str]) -> None:
    twice = runs[runs.duplicated(key, keep=False)]
    if len(twice):
        _, same = next(iter(groups(twice, key)))
        differing = [name for name in left_open if _differs(same[name])]
        how = f"which differ in {' and '.join(differing)}: name it in {which}" if differing else "with equal settings"
        raise BadInputError(f"{len(same)} runs of seed {same['seed'].iloc[0]} fit {which}, {how}")
