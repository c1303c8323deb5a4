"""Successive halving: at given rounds the worse half of a sweep's configurations is stopped.

Jamieson, Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", arXiv 1502.07943,
with the rounds as the budget. A configuration is judged by the mean over its seeds, and all of its seeds are stopped
together. The decision depends on the recorded rounds alone, so a sweep that was killed decides the same again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from fedray.core.errors import BadInputError
from fedray.core.metrics import sign
from fedray.experiment.experiment import Experiment

Round = Mapping[Any, Any]


def read_rungs(text: str, experiments: Sequence[Experiment]) -> list[int]:
    """The rounds of `--halve 10,30`, ascending.

    BadInputError if the text is no list of ascending rounds, if no run is longer than the last of them, or if some run
    was not evaluated yet at the first.
    """
    try:
        rungs = [int(word) for word in text.split(",")]
    except ValueError:
        raise BadInputError(f"--halve {text} must be rounds with commas between them, as in --halve 10,30") from None
    longest = max(experiment.rounds for experiment in experiments)
    if rungs != sorted(set(rungs)) or rungs[0] < 1:
        raise BadInputError(f"--halve {text} must be rounds that ascend from 1 or more, as in --halve 10,30")
    if rungs[-1] >= longest:
        raise BadInputError(f"--halve {text} stops nothing at round {rungs[-1]}: the longest run has {longest} rounds")
    if early := next((e for e in experiments if rungs[0] < looks_every(e)), None):
        raise BadInputError(
            f"--halve {text} cannot judge at round {rungs[0]}: {measure(early)} is measured every "
            f"{looks_every(early)} rounds"
        )
    return rungs


def measure(experiment: Experiment) -> str:
    """The measure that judges a run, as far as its settings say."""
    return (experiment.evaluation.judged_by or "accuracy").replace("_", " ")


def looks_every(experiment: Experiment) -> int:
    """The rounds from one measurement of the measure that judges a run to the next."""
    evaluation = experiment.resolved().evaluation
    return (evaluation.clients_every or 0) if experiment.algorithm.personalises else evaluation.every


def configuration(experiment: Experiment) -> str:
    """A key of the experiment's configuration: all its settings but the seed."""
    return json.dumps({**experiment.settings(), "seed": None}, sort_keys=True)


def score(judged: str, rounds: Sequence[Round], t: int) -> float:
    """The column `judged` at a run's last evaluation up to round t, times -1 where less is better.

    It is -inf where there is none, or if that is NaN.
    """
    scores = [row[judged] for row in rounds if row["round"] <= t and row[judged] is not None]
    return sign(judged) * scores[-1] if scores and not math.isnan(scores[-1]) else -math.inf


def worse_half(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """The configurations to stop, given the scores of their runs: all but the better half.

    Of an odd number the one in the middle is kept. Among equals the first ones are kept.
    """
    means = {key: mean(runs) if all(map(math.isfinite, runs)) else -math.inf for key, runs in scores.items()}
    ranked = sorted(means, key=lambda key: -means[key])
    return ranked[math.ceil(len(ranked) / 2) :]
