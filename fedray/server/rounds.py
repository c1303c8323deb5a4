"""The server's round loop, a generator, and the sampling of cohorts.

Evaluation, recording, checkpoints and early stopping are in the body of the caller's `for`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np

from fedray.core.errors import TooFewSurvivorsError
from fedray.core.randomness import generator
from fedray.core.updates import Report, Seconds, Updates, Vectors
from fedray.server.participation import Faults, absentee, answering
from fedray.server.population import Population


@dataclass(frozen=True)
class Round:
    """The result of one round: `mean` is the aggregated update, and `state` the server's state after it.

    `cohort` are all clients asked. `updates.reports` are the reports of those whose update counts, and `absent` those
    of all others. Seconds are wall-clock.
    """

    t: int
    cohort: list[int]
    lr: float
    updates: Updates
    absent: list[Report]
    mean: Vectors
    state: Vectors
    seconds: Seconds


def sample_cohort(seed: int, t: int, population: int, size: int, weights: np.ndarray | None = None) -> list[int]:
    """The `size` clients of round t, drawn without replacement, sorted. The function is pure: a resume needs no replay.

    All clients are equally likely. With `weights` [N], all above 0, clients are drawn one after another, each with a
    probability proportional to its weight among those left.
    """
    if weights is None:
        chosen = generator(seed, "cohort", t=t).choice(population, size=size, replace=False)
    else:
        # Clients wait for exponential times, with their weights as rates: the next one is then drawn in proportion to
        # its weight (Efraimidis, Spirakis 2006, "Weighted random sampling with a reservoir", whose keys are the
        # logarithms of these times).
        waits = generator(seed, "sampling", t=t).standard_exponential(population) / weights
        chosen = np.argsort(waits, kind="stable")[:size]
    return sorted(int(client) for client in chosen)


def play_rounds(
    algorithm: Any,
    population: Population,
    state: Vectors,
    *,
    ts: Sequence[int],
    rounds: int,
    cohort: int,
    seed: int,
    faults: Faults | None = None,
    sampling: str = "uniform",
) -> Iterator[Round]:
    """Yield the rounds `ts`, consecutive numbers of 1..rounds, starting from `state`. A resumed run has a part of them.

    A round without any update leaves the state as it was. TooFewSurvivorsError where a round has fewer updates than
    faults.min_survivors, as in `train_enough`.
    """
    faults, sizes = faults or Faults(), population.sizes
    likely = sizes if sampling == "size" else None
    all_weights = math.fsum(algorithm.weight(n) for n in sizes.tolist())
    for t in ts:
        asked = sample_cohort(seed, t, len(population), cohort + faults.over_selection, likely)
        members, reasons = answering(faults, seed, t, asked, cohort)
        lr = algorithm.learning_rate(t, rounds)
        message = algorithm.broadcast(state, t)
        updates = train_enough(algorithm, population, members, message, t, lr, faults)
        trained = time.perf_counter()
        if updates.reports:
            mean = algorithm.aggregate(updates)
            participation = math.fsum(algorithm.weight(report.num_examples) for report in updates.reports) / all_weights
            state = algorithm.server_update(state, mean, participation)
        else:
            mean = {name: np.zeros_like(state[name]) for name in ("params", "buffers")}
        absent = [absentee(client, int(sizes[client]), status) for client, status in reasons.items()]
        yield Round(
            t=t,
            cohort=asked,
            lr=lr,
            updates=updates,
            absent=sorted([*updates.missing, *absent], key=attrgetter("client")),
            mean=mean,
            state=state,
            seconds=replace(updates.seconds, aggregate=updates.seconds.aggregate + time.perf_counter() - trained),
        )
        del message, updates, mean  # frees several vectors before the next round


def train_enough(
    algorithm: Any, population: Population, members: list[int], message: Vectors, t: int, lr: float, faults: Faults
) -> Updates:
    """A round's updates. Where too many clients are lost the round is played again once; then TooFewSurvivorsError."""
    needed, retries = min(faults.min_survivors, len(members)), 0
    for _ in range(2):
        updates = population.train(algorithm, members, message, t, lr, drop=faults.lost == "drop")
        updates = replace(updates, retries=updates.retries + retries)
        retries = updates.retries
        lost = sum(report.status == "lost" for report in updates.missing)
        if not lost or len(updates.reports) >= needed:
            return updates
    raise TooFewSurvivorsError(
        f"round {t} was played twice, and {lost} of {len(members)} clients were lost with their processes: "
        f"{len(updates.reports)} updates were left, fewer than faults.min_survivors = {faults.min_survivors}"
    )
