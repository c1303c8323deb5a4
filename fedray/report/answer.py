"""The answer of the report: the best configuration, its lead, and the table of all configurations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedray.core.errors import BadInputError
from fedray.core.metrics import sign
from fedray.report.study import Study, way_to_target
from fedray.report.wording import (
    JUDGES,
    MEASURES,
    NAMES,
    count,
    duration,
    is_missing,
    measure,
    number,
    percent,
    setting,
    short,
    size,
)
from fedray.results.comparison import compare
from fedray.sweep.summary import is_share, said_of


@dataclass(frozen=True)
class Column:
    """A column of the answer table: its heading, that of its group (may be empty), and a cell per configuration."""

    group: str
    heading: str
    cells: tuple[str, ...]
    numeric: bool = True


@dataclass(frozen=True)
class Tile:
    """One of the large numbers at the top of the page."""

    heading: str
    number: str
    note: str


def columns(study: Study) -> list[Column]:
    table = study.configurations
    rows = table.to_dict("records")
    axes = [
        Column("", short(name), tuple(setting(name, row[name]) for row in rows), numeric=False) for name in study.axes
    ]
    if not axes or study.named:
        heading = "configuration" if study.named else "algorithm"
        axes = [Column("", heading, tuple(row["label"] for row in rows), numeric=False)]
    runs = Column("", "runs", tuple(counted(row) for row in rows))
    whole = [(study.clock if name == "seconds" else heading, name, say) for heading, name, say in WHOLE]
    ways = [Column("whole run", *cells(rows, heading, name, say)) for heading, name, say in whole]
    return [*axes, runs, *accuracies(study, rows), *to_target(study), *ways]


WHOLE: tuple[tuple[str, str, Callable[..., str]], ...] = (
    ("rounds", "rounds_done", number),
    ("time", "seconds", duration),
    ("sent", "bytes", size),
)


def cells(rows: list[dict[Any, Any]], heading: str, name: str, say: Callable[..., str]) -> tuple[str, tuple[str, ...]]:
    return heading, tuple(say(row[f"{name}_mean"]) for row in rows)


def counted(row: Mapping[Any, Any]) -> str:
    return str(row["runs"]) if row["complete"] else f"{row['good']} of {row['runs']}"


def accuracies(study: Study, rows: list[dict[Any, Any]]) -> list[Column]:
    """A column for each accuracy: mean and standard deviation in percent. The one that orders the table comes first.

    Where another measure judges it is there as well, in percent only if it is a share.
    """
    shown = [
        ("final", study.chosen_by),
        ("final", study.measure if study.measure in JUDGES or study.measure == "test_loss" else study.chosen_by),
        *(("final", name) for name in MEASURES if name.endswith("accuracy")),
        ("best", study.measure),
    ]
    found = []
    for at, name in dict.fromkeys(shown):
        means = study.configurations.get(f"{at}_{name}_mean")
        if name is not None and means is not None and means.notna().any():
            say, group = (percent, f"{at}, %") if is_share(name) else (number, at)
            spread = tuple(say(row[f"{at}_{name}_mean"], row[f"{at}_{name}_std"]) for row in rows)
            found.append(Column(group, NAMES[name], spread))
    return found


def to_target(study: Study) -> list[Column]:
    """Rounds, time and bytes until the target, with the number of runs that reached it if not all did."""
    way = way_to_target(study)
    if way.empty or study.measure is None:
        return []
    rows = way.loc[study.keys].to_dict("records")
    said: dict[str, Callable[[float], str]] = {"rounds": number, "seconds": duration, "bytes": size}
    headings = {"rounds": "rounds", "seconds": study.clock, "bytes": "sent"}
    group = f"to {target_of(study)} {NAMES[study.measure]}"
    return [
        Column(
            group,
            headings[name],
            tuple(
                (say(row[f"{name}_mean"]) or "never")
                + (f" ({row['reached']:.0f} of {row['runs']:.0f})" if 0 < row["reached"] < row["runs"] else "")
                for row in rows
            ),
        )
        for name, say in said.items()
    ]


def target_of(study: Study) -> str:
    """The target in words: a share in percent."""
    return "" if study.target is None else said_of(study.target, str(study.measure))


def tiles(study: Study) -> list[Tile]:
    """The tiles of the best configuration."""
    best = study.configurations.iloc[0]
    if study.measure is None or is_missing(best[f"final_{study.measure}_mean"]):
        return []
    reached_at = measure(study.measure, best[f"final_{study.measure}_mean"], best[f"final_{study.measure}_std"])
    of_seeds = f", mean and standard deviation of {best['good']} runs" if best["good"] > 1 else ""
    name = f"{best['label']}{of_seeds}" if len(study.keys) > 1 or of_seeds else f"{best['label']}, last round"
    found = [Tile(("best " if len(study.keys) > 1 else "") + f"final {NAMES[study.measure]}", reached_at, name)]
    way = way_to_target(study)
    if len(way) and (reached := way.loc[study.keys[:1]].to_dict("records")[0])["reached"]:
        cpu = " of CPU time" if study.clock == "CPU time" else ""
        cost = f"{duration(reached['seconds_mean'])}{cpu} and {size(reached['bytes_mean'])} sent"
        found.append(Tile(f"to reach {target_of(study)}", f"{number(reached['rounds_mean'])} rounds", cost))
    seconds = study.results.runs["seconds"].sum()
    found.append(Tile(f"{study.clock} of all runs", duration(seconds), count(len(study.results.runs), "run")))
    return found


def lead(study: Study) -> str:
    """A sentence on the lead of the best configuration over the second, paired by seed; empty if they share too few."""
    if len(study.keys) < 2 or study.measure is None or study.chosen_by is None:
        return ""
    first, second = study.configurations.iloc[0], study.configurations.iloc[1]
    settings = [{name: None if is_missing(row[name]) else row[name] for name in study.axes} for row in (first, second)]
    try:
        found = compare(study.as_loaded, settings[0], settings[1], value=study.measure)
    except BadInputError:  # no seed in common, or none that has ended
        return ""
    if is_missing(found.low):
        return ""
    names, points = (first["label"], second["label"]), 100 * found.difference
    where = f"{abs(points):.1f} points {'ahead of' if points > 0 else 'behind'}" if round(points, 1) else "level with"
    interval = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
    if not is_share(study.measure):
        ahead = sign(study.measure) * found.difference
        apart = f"{abs(found.difference):.3g} {'ahead of' if ahead > 0 else 'behind'}"
        where, interval = apart if ahead else "level with", f"{found.low:.3g} to {found.high:.3g}"
    sure = " Zero is in it: these seeds do not tell which is better." if found.low <= 0 <= found.high else ""
    return (
        f"{names[0]} is {where} {names[1]} in final {NAMES[study.measure]} (95 % interval of the difference "
        f"{interval}, paired over {found.pairs} seeds).{sure}"
    )
