"""The server: it samples a cohort a round, and its round loop is a generator.

Evaluation, recording, checkpoints and early stopping are the body of the caller's `for`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fedray.data import Split
from fedray.randomness import generator
from fedray.updates import Scores, Seconds, Updates, Vectors


class Population(Protocol):
    """All N clients, wherever they run. Two populations given the same calls return the same bits."""

    def __len__(self) -> int:
        """N."""

    @property
    def sizes(self) -> np.ndarray:
        """How many examples each client holds: int64 [N]."""

    def train(self, algorithm: Any, cohort: list[int], message: Vectors, t: int, lr: float) -> Updates:
        """Have every client of the cohort train from the message; their updates summed in blocks, in cohort order."""

    def evaluate(self, state: Vectors, split: Split = "test") -> tuple[float, float]:
        """Mean cross-entropy and accuracy (a fraction) of the state's model on the whole of a split."""

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        """How the model that each client would use does on test examples of its own.

        `message` is the broadcast of the state after round t. For populations that were given such examples.
        """

    def rows(self) -> dict[str, Any]:
        """The columns of the population table, a client a row."""

    def memories(self, t: int) -> Iterator[tuple[int, Vectors]]:
        """What each client remembers after round t, the last one trained or the one before it, one at a time."""

    def remember(self, client: int, memory: Vectors) -> None:
        """Give a client its memory back, when a run is resumed."""

    def close(self) -> None:
        """Let go of everything that was held for this run."""


@dataclass(frozen=True)
class Round:
    """What one round did: `mean` is the aggregated update, `state` the server's after it; seconds are wall-clock."""

    t: int
    cohort: list[int]
    lr: float
    updates: Updates
    mean: Vectors
    state: Vectors
    seconds: Seconds


def sample_cohort(seed: int, t: int, population: int, size: int) -> list[int]:
    """The m clients of round t, without replacement, sorted; a pure function, so a resume needs no replay."""
    chosen = generator(seed, "cohort", t=t).choice(population, size=size, replace=False)
    return sorted(int(client) for client in chosen)


def play_rounds(
    algorithm: Any, population: Population, state: Vectors, *, ts: Sequence[int], rounds: int, cohort: int, seed: int
) -> Iterator[Round]:
    """Yield the rounds `ts` (a stretch of 1..rounds, all of it unless resuming), starting from `state`."""
    all_weights = math.fsum(algorithm.weight(n) for n in population.sizes.tolist())
    for t in ts:
        members = sample_cohort(seed, t, len(population), cohort)
        lr = algorithm.learning_rate(t, rounds)
        message = algorithm.broadcast(state, t)
        updates = population.train(algorithm, members, message, t, lr)
        trained = time.perf_counter()
        mean = algorithm.aggregate(updates)
        participation = math.fsum(algorithm.weight(report.num_examples) for report in updates.reports) / all_weights
        state = algorithm.server_update(state, mean, participation)
        yield Round(
            t=t,
            cohort=members,
            lr=lr,
            updates=updates,
            mean=mean,
            state=state,
            seconds=replace(updates.seconds, aggregate=updates.seconds.aggregate + time.perf_counter() - trained),
        )
        del message, updates, mean  # several vectors, while the next round is played
