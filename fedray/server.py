"""The server: it samples a cohort a round, and its round loop is a generator.

Evaluation, recording, checkpoints and early stopping are the body of the caller's `for`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from fedray.data import Split
from fedray.errors import TooFewSurvivorsError
from fedray.faults import Faults, absentee, answering
from fedray.performance import Performance
from fedray.randomness import generator
from fedray.updates import Event, Report, Scores, Seconds, Updates, Vectors


class Population(Protocol):
    """All N clients, wherever they run. Two populations given the same calls return the same bits."""

    def __len__(self) -> int:
        """N."""

    @property
    def sizes(self) -> np.ndarray:
        """How many examples each client holds: int64 [N]."""

    def train(
        self, algorithm: Any, cohort: list[int], message: Vectors, t: int, lr: float, drop: bool = False
    ) -> Updates:
        """Have every client of the cohort train from the message; their updates summed in blocks, in cohort order.

        A client whose process is lost trains again, or, with `drop`, is missing. What clients remember of a round that
        is trained again does not count.
        """

    def evaluate(self, state: Vectors, split: Split = "test", top_k: int | None = None) -> Performance:
        """How the state's model does on the whole of a split; with `top_k`, also how often it is right in k guesses."""

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        """How the model that each client would use does on test examples of its own.

        `message` is the broadcast of the state after round t. For populations that were given such examples.
        """

    def rows(self) -> dict[str, Any]:
        """The columns of the population table, a client a row."""

    def events(self) -> list[Event]:
        """What has happened to the processes since this was last asked."""

    def memories(self, t: int) -> Iterator[tuple[int, Vectors]]:
        """What each client remembers after round t, the last one trained or the one before it, one at a time."""

    def remember(self, client: int, memory: Vectors) -> None:
        """Give a client its memory back, when a run is resumed."""

    def close(self) -> None:
        """Let go of everything that was held for this run."""


@dataclass(frozen=True)
class Round:
    """What one round did: `mean` is the aggregated update, `state` the server's after it; seconds are wall-clock.

    `cohort` is who was asked, `updates.reports` are of those whose update counts, and `absent` of all others.
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
    """The m clients of round t, without replacement, sorted; a pure function, so a resume needs no replay.

    All are as likely; or, with `weights` [N], all above 0, they are drawn one after another, each in proportion to its
    weight among those left.
    """
    if weights is None:
        chosen = generator(seed, "cohort", t=t).choice(population, size=size, replace=False)
    else:
        # Whoever waits for an exponential time of this rate is next with that probability (Efraimidis, Spirakis 2006,
        # "Weighted random sampling with a reservoir", whose keys are the logarithms of these).
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
    """Yield the rounds `ts` (a stretch of 1..rounds, all of it unless resuming), starting from `state`.

    A round without any update leaves the state as it was. Raises TooFewSurvivorsError as `faults` says.
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
        del message, updates, mean  # several vectors, while the next round is played


def train_enough(
    algorithm: Any, population: Population, members: list[int], message: Vectors, t: int, lr: float, faults: Faults
) -> Updates:
    """A round's updates; where too many clients were lost, those of a second attempt, or TooFewSurvivorsError."""
    needed, retries = min(faults.min_survivors, len(members)), 0
    for _ in range(2):
        updates = population.train(algorithm, members, message, t, lr, drop=faults.lost == "drop")
        updates = replace(updates, retries=updates.retries + retries)
        retries = updates.retries
        lost = sum(report.status == "lost" for report in updates.missing)
        if not lost or len(updates.reports) >= needed:
            return updates
    raise TooFewSurvivorsError(
        f"round {t} was played twice, and {lost} of {len(members)} clients were lost with their processes, so that "
        f"{len(updates.reports)} updates were left, fewer than faults.min_survivors = {faults.min_survivors}"
    )
