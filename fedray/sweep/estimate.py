"""An estimate of the time that the runs left will take, from the seconds of known runs.

All functions here take flat settings: dotted name -> value, `dict(flatten(experiment.settings()))` of a resolved
experiment.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedray import results
from fedray.algorithms import ALGORITHMS
from fedray.core.newer import with_neutral
from fedray.core.settings import flatten
from fedray.data.own_tests import own_test_size
from fedray.data.synthetic import SIZES

Settings = Mapping[str, Any]

FORWARD = 1 / 3  # the cost of an example in evaluation, a forward pass alone, relative to training


@dataclass(frozen=True)
class Known:
    """A run that has played `rounds` rounds in `seconds` seconds."""

    run: str
    settings: Settings
    rounds: int
    seconds: float


def known_runs(root: str | Path, name: str) -> list[Known]:
    """The runs in the folder `root`/`name` that have played a round; an empty list if there is no such folder."""
    if not (Path(root) / name).is_dir():
        return []
    runs = results.load(name, root, tables=()).runs
    rows = zip(*(runs[column].tolist() for column in ("run", "settings", "rounds_done", "seconds")), strict=True)
    return [
        Known(run, with_neutral(dict(flatten(json.loads(settings)))), int(rounds), float(seconds))
        for run, settings, rounds, seconds in rows
        if settings and rounds > 0 and seconds > 0  # a null is NaN here, and NaN > 0 is false
    ]


def work(settings: Settings) -> float:
    """The cost of a round, in examples trained on. An evaluated example counts as FORWARD of one.

    It compares rounds of the same model only: an example costs more with a larger one.
    """
    clients, held_out = settings["clients"], settings.get("data.validation_examples") or 0
    train = (settings.get("data.train_examples") or SIZES["train"]) - held_out
    test = (settings.get("data.test_examples") or SIZES["test"]) + held_out
    shard = settings.get("partition.examples") or train / clients
    if steps := settings.get("algorithm.steps"):
        trained = mean(settings.get("algorithm.steps_min"), steps) * (settings.get("algorithm.batch_size") or shard)
    else:
        trained = mean(settings.get("algorithm.epochs_min"), settings.get("algorithm.epochs", 1)) * shard
    if "algorithm.personal_epochs" in settings:  # ditto trains a second model, by default for as many epochs
        trained += (settings["algorithm.personal_epochs"] or trained / shard) * shard
    evaluated = test / (settings.get("evaluation.every") or 1)
    if every := settings.get("evaluation.clients_every"):
        each = settings.get("evaluation.client_examples") or own_test_size(test, clients)
        evaluated += clients * each / every
    return float(settings["cohort"] * trained + FORWARD * evaluated)


def mean(least: float | None, most: float) -> float:
    """The mean of a number drawn from `least` to `most`; `most` itself if there is no least number."""
    return (least or most) / 2 + most / 2


def estimate(known: Sequence[Known], left: Sequence[tuple[Settings, int]]) -> list[float | None]:
    """The estimated seconds of each run left, from its settings and its rounds left; None where none like it is known.

    Only runs of the same `Workload` count. Of these, the ones that share most of the other settings give the seconds
    for a unit of work. Seeds and the sections cluster and output do not count.
    """
    names = differing([run.settings for run in known] + [settings for settings, _ in left])
    cost: dict[Kind, tuple[float, float]] = {}  # seconds and work of the known runs of a kind
    for run in known:
        kind = to_kind(run.settings, names)
        seconds, done = cost.get(kind, (0.0, 0.0))
        cost[kind] = seconds + run.seconds, done + run.rounds * work(run.settings)
    kinds = [to_kind(settings, names) for settings, _ in left]
    rates = {kind: nearest_rate(kind, cost) for kind in set(kinds)}
    return [
        None if (rate := rates[kind]) is None else rate * work(settings) * rounds
        for kind, (settings, rounds) in zip(kinds, left, strict=True)
    ]


class Workload(NamedTuple):
    """What an example costs: the seconds of one workload say nothing of another's."""

    model: tuple[Any, ...]
    data: tuple[Any, ...]
    batch_size: int
    algorithm: str
    """The algorithm where a step of it costs otherwise: one that compares features, or the user's own."""


OF_MODEL = ("name", "freeze", "norm", "stem", "resize", "aux_weight", "precision", "channels_last", "projection")
OF_DATA = ("dataset", "augment", "image_size")


def workload(settings: Settings) -> Workload:
    name = str(settings.get("algorithm.name"))
    model, data = (
        tuple(settings.get(f"{section}.{key}") for key in keys)
        for section, keys in (("model", OF_MODEL), ("data", OF_DATA))
    )
    if settings.get("data.dataset") == "parquet":  # any folder has this name
        data += (settings.get("data.root"),)
    own = name not in ALGORITHMS or "penalty" in vars(ALGORITHMS[name])
    return Workload(model, data, settings.get("algorithm.batch_size") or 0, name if own else "")


Kind = tuple[Workload, frozenset[tuple[str, str]]]
"""The workload of a run, and its settings that differ between the runs: both decide which runs are alike."""


def differing(several: Sequence[Settings]) -> list[str]:
    """The settings that differ between runs, without the seed and the sections cluster and output."""
    names = {name for settings in several for name in settings}
    return [
        name
        for name in names
        if name != "seed"
        and not name.startswith(("cluster.", "output."))
        and len({repr(settings.get(name)) for settings in several}) > 1
    ]


def to_kind(settings: Settings, names: Sequence[str]) -> Kind:
    return workload(settings), frozenset((name, repr(settings.get(name))) for name in names)


def nearest_rate(kind: Kind, cost: Mapping[Kind, tuple[float, float]]) -> float | None:
    """Seconds for a unit of work, over all the kinds of this workload that are most like this one; None without any."""
    likeness = {other: len(other[1] & kind[1]) for other in cost if other[0] == kind[0]}
    if not likeness:
        return None
    most = max(likeness.values())
    seconds, done = zip(*(cost[other] for other in likeness if likeness[other] == most), strict=True)
    return float(sum(seconds) / sum(done))


def outlook(runs: int, left: Sequence[tuple[Settings, int]], known: Sequence[Known]) -> str:
    """A sentence on the runs left of `runs` runs in all, and on the time that they take."""
    if not left:
        return f"none of {counted(runs, 'run')} is left"
    counts = counted(runs, "run") if len(left) == runs else f"{len(left):,} of {counted(runs, 'run')}"
    return f"{counts} left{time_of(left, known)}"


def time_of_one(settings: Settings, rounds: int, known: Sequence[Known]) -> str:
    """A sentence on the time of one run with so many rounds left."""
    if not rounds:
        return "no round is left"
    (seconds,) = estimate(known, [(settings, rounds)])
    if seconds is None:
        why = why_unknown([settings], known) if known else "no run of these results is known"
        return f"{why} to estimate the time by"
    alike = sum(workload(run.settings) == workload(settings) for run in known)
    return f"about {rough_duration(seconds)} for {counted(rounds, 'round')}, by {counted(alike, 'known run')}"


def time_of(left: Sequence[tuple[Settings, int]], known: Sequence[Known]) -> str:
    """The end of a sentence on these runs: the time that they take, or that no run says it."""
    if not known:
        return "; no run is known yet to estimate their time by"
    seconds = estimate(known, left)
    found = [each for each in seconds if each is not None]
    unlike = [settings for (settings, _), each in zip(left, seconds, strict=True) if each is None]
    if not found:
        return f"; {why_unknown(unlike, known)} to estimate their time by"
    alike = {workload(settings) for settings, _ in left}
    by = counted(sum(workload(run.settings) in alike for run in known), "known run")
    time = f"about {rough_duration(sum(found))} one after another, by {by}"
    if not unlike:
        return f", {time}"
    return f"; {len(found):,} of them take {time}; {why_unknown(unlike, known)} to estimate the others by"


def why_unknown(unlike: Sequence[Settings], known: Sequence[Known]) -> str:
    """The clause that no run like these is known: of their model, or of all that decides the cost of an example."""
    models = sorted({str(settings.get("model.name")) for settings in unlike})
    there = {run.settings.get("model.name") for run in known}
    alike = "" if not there & set(models) else " with this data, batch size and algorithm"
    return f"no run of {' or '.join(models)}{alike} is known"


def rough_duration(seconds: float) -> str:
    """A time in days, hours, minutes or seconds, in the largest unit that it has two of: "4 minutes"."""
    units = {"day": 86_400, "hour": 3600, "minute": 60, "second": 1}
    unit = next((unit for unit, length in units.items() if seconds / length >= 2), "second")
    return counted(max(1, round(seconds / units[unit])), unit)


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
