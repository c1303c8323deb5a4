"""The server's round loop, a generator, and the sampling of cohorts.

Evaluation, recording, checkpoints and early stopping are in the body of the caller's `for`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from fedray.core.algorithm import Algorithm, Transform
from fedray.core.errors import TooFewSurvivorsError
from fedray.core.randomness import generator
from fedray.core.updates import Report, Seconds, Updates, Vectors, WeightedSum
from fedray.server.aggregators import Aggregator, Mean
from fedray.server.participation import Faults, absentee, answering
from fedray.server.population import Population
from fedray.server.task import Handle, Task


@dataclass(frozen=True)
class Round:
    """The result of one round. Every protocol yields it, and whoever consumes rounds does not know which one did.

    `mean` is the aggregated update, `delta` what of it moves the params [P], and `state` the server's state after it.

    `cohort` are all clients asked. `updates` has its sum's weight alone, without its vectors. `updates.reports` are
    the reports of those whose update counts, and `absent` those of all others. Seconds are wall-clock.
    """

    t: int
    cohort: list[int]
    lr: float
    updates: Updates
    absent: list[Report]
    mean: Vectors
    delta: np.ndarray
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
    algorithm: Algorithm,
    population: Population,
    state: Vectors,
    *,
    ts: Sequence[int],
    rounds: int,
    cohort: int,
    seed: int,
    faults: Faults | None = None,
    sampling: str = "uniform",
    aggregator: Aggregator | None = None,
    chain: tuple[Transform, ...] = (),
    unseen: Sequence[int] = (),
) -> Iterator[Round]:
    """Yield the rounds `ts`, consecutive numbers of 1..rounds, starting from `state`. A resumed run has a part of them.

    `unseen` are clients that are never asked: cohorts are drawn of the others, and shares are of the others' examples.
    A round without any update leaves the state as it was. TooFewSurvivorsError where a round has fewer updates than
    faults.min_survivors, as in `take_enough`.
    """
    faults, sizes, aggregator = faults or Faults(), population.sizes, aggregator or Mean()
    seen = np.setdiff1d(np.arange(len(population)), np.asarray(unseen, np.int64))
    likely = sizes[seen] if sampling == "size" else None
    all_weights = math.fsum(algorithm.weight(n) for n in sizes[seen].tolist())
    for t in ts:
        places = sample_cohort(seed, t, len(seen), cohort + faults.over_selection, likely)
        asked = [int(seen[place]) for place in places]
        members, reasons = answering(faults, seed, t, asked, cohort)
        message, lr = algorithm.broadcast(state, t), algorithm.learning_rate(t, rounds)
        task = Task(algorithm, message, t, lr, chain, aggregator, drop=faults.lost == "drop")
        handle, updates = take_enough(population, task, members, faults)
        taken = time.perf_counter()
        if updates.reports:
            mean = aggregator.aggregate(updates, algorithm.denominator(updates.sum.weight))
            updates = replace(updates, sum=WeightedSum(weight=updates.sum.weight))  # the mean says it, and is as long
            delta = algorithm.delta(mean)
            state = algorithm.server_update(state, mean, math.fsum(updates.weights) / all_weights)
        else:
            mean = {name: np.zeros_like(state[name]) for name in ("params", "buffers")}
            delta = mean["params"]
        population.keep(handle)
        absent = [absentee(client, int(sizes[client]), status) for client, status in reasons.items()]
        yield Round(
            t=t,
            cohort=asked,
            lr=lr,
            updates=updates,
            absent=sorted([*updates.missing, *absent], key=attrgetter("client")),
            mean=mean,
            delta=delta,
            state=state,
            seconds=replace(updates.seconds, aggregate=updates.seconds.aggregate + time.perf_counter() - taken),
        )
        del task, message, handle, updates, mean, delta  # frees several vectors before the next round


def take_enough(population: Population, task: Task, members: list[int], faults: Faults) -> tuple[Handle, Updates]:
    """A round's handle, and its updates. Where too many clients are lost the round is played again once; then
    TooFewSurvivorsError."""
    needed, retries = min(faults.min_survivors, len(members)), 0
    for _ in range(2):
        handle = population.submit(task, members)
        updates = population.take(handle)
        updates = replace(updates, retries=updates.retries + retries)
        retries = updates.retries
        lost = sum(report.status == "lost" for report in updates.missing)
        if not lost or len(updates.reports) >= needed:
            return handle, updates
        population.discard(handle)
    raise TooFewSurvivorsError(
        f"round {task.t} was played twice, and {lost} of {len(members)} clients were lost with their processes: "
        f"{len(updates.reports)} updates were left, fewer than faults.min_survivors = {faults.min_survivors}"
    )
