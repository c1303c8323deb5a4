"""What comes back from a cohort, and the one way to sum it.

An update is client minus server: named float32 vectors that the server adds. Sums run in cohort order inside a block
of consecutive cohort positions, and blocks are added in order. Whether a block was summed by an actor or by the driver,
the same float32 operations happen in the same order, so the bits are the same.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Vectors = dict[str, np.ndarray]
M = TypeVar("M")
Scores = tuple[int, float, float]  # a client's own test examples, their mean cross-entropy and accuracy


@dataclass(frozen=True)
class Report:
    """What one client did in one round; `seconds` is its local training, bytes are those that it received and sent.

    `status` is "ok" for a client whose update counts. Otherwise "non_finite"; or, without losses, norms and seconds,
    "lost", "dropout" or "surplus" (faults.py).
    """

    client: int
    num_examples: int
    steps: int
    train_loss: float | None
    update_norm: float | None
    seconds: float | None
    bytes_down: int
    bytes_up: int
    status: str = "ok"
    actor: str = ""
    node: str = ""
    pid: int = 0
    images: int = 0
    """On how many it was trained, each as often as it came."""
    padding: int = 0
    """How many were computed beside them for nothing, where many clients are trained as one program."""
    squeezed: int = 0
    """Where its GPU had no room for as many clients at once as there should have been: for how many it had."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a process of a run; to which, where that is known, and with which clients at work."""

    kind: str
    detail: str
    actor: str | None = None
    node: str | None = None
    pid: int | None = None
    clients: tuple[int, ...] = ()
    at: int = field(default_factory=lambda: int(time.time() * 1000))
    """Milliseconds since 1970 UTC."""


HAPPENED = {
    "resumed": "continued",
    "actor_lost": "actor lost",
    "node_lost": "actor lost with its node",
    "out_of_memory": "actor ended for want of memory",
    "hung": "actor taken to hang",
    "slow": "call slow in the first round",
    "object_lost": "object lost",
    "place_given_up": "actor not replaced",
    "went_back": "back to the last checkpoint",
    "squeezed": "fewer clients at once",
}
"""Each kind of Event in words, but for "actor_started", which is no news."""


@dataclass
class Sum:
    """The weighted sum of updates, and the sum of their weights."""

    vectors: Vectors = field(default_factory=dict)
    weight: float = 0.0

    def add_update(self, update: Vectors, weight: float) -> None:
        """Add one client's update; `update` is left as it is."""
        if weight != 1 or not self.vectors:
            update = {name: vector * np.float32(weight) for name, vector in update.items()}
        self.add(Sum(update, weight))

    def add(self, other: "Sum") -> None:
        """Add a sum; the first one is taken over (and copied only if it cannot be written to)."""
        if not self.vectors:
            self.vectors = {name: v if v.flags.writeable else v.copy() for name, v in other.vectors.items()}
        else:
            for name, vector in other.vectors.items():
                np.add(self.vectors[name], vector, out=self.vectors[name])
        self.weight += other.weight


@dataclass(frozen=True)
class Trained:
    """What one call to a population's worker gives back: a block summed, or its clients' own vectors, in cohort order.

    Exactly one of `sum` and `each` is filled, with the vectors of those clients whose report's status is "ok".
    """

    reports: list[Report]
    sum: Sum | None = None
    each: list[Vectors] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """The size of all its vectors."""
        return sum(num_bytes(vectors) for vectors in ([self.sum.vectors] if self.sum else self.each))


@dataclass(frozen=True)
class Seconds:
    """Where the time of a cohort's training went, as shares of the wall-clock time that add up to it.

    With several cores at work, a core's second counts as that second divided by the cores.
    """

    train: float = 0.0
    """The clients' local training."""
    aggregate: float = 0.0
    """Summing updates, in the actors and in the driver."""
    idle: float = 0.0
    """Cores without work, most of all those that wait for the last block."""
    transfer: float = 0.0
    """The message on its way out, the updates on their way back, and everything else that Ray does."""


@dataclass(frozen=True)
class Updates:
    """A cohort's updates: their weighted sum, or, for a non-linear aggregation, each client's own vectors.

    `reports` and `each` are in cohort order; `each` is empty where the algorithm is linear. The vectors of the sum are
    large and used up by the aggregation, which makes the mean of them. `missing` are the reports of clients whose
    update is not there: it was not finite, or was lost. `retries` counts the calls that were made again because an
    actor was lost.
    """

    sum: Sum
    reports: list[Report]
    each: list[Vectors] = field(default_factory=list)
    missing: list[Report] = field(default_factory=list)
    retries: int = 0
    seconds: Seconds = Seconds()


def gather(algorithm: Any, blocks_trained: Iterable[list[Trained]]) -> Updates:
    """The cohort's updates from its blocks in order, each as one call's result or as one for each of its clients."""
    total, reports, each = Sum(), list[Report](), list[Vectors]()
    for block in blocks_trained:
        reports += [report for trained in block for report in trained.reports]
        if len(block) == 1 and block[0].sum is not None:  # no need for a copy that is added to
            total.add(block[0].sum)
            continue
        subtotal = Sum()
        for trained in block:
            if trained.sum is not None:
                subtotal.add(trained.sum)
                continue
            counted = [report for report in trained.reports if report.status == "ok"]
            if algorithm.linear:
                for vectors, report in zip(trained.each, counted, strict=True):
                    subtotal.add_update(vectors, algorithm.weight(report.num_examples))
            else:
                each += trained.each
        if algorithm.linear:
            total.add(subtotal)
    counted = [report for report in reports if report.status == "ok"]
    return Updates(total, counted, each, [report for report in reports if report.status != "ok"])


def remembered(clients: Sequence[int], reports: Sequence[Report], memories: Sequence[M]) -> dict[int, M]:
    """What each of these clients remembers from now on: nothing new where its update does not count."""
    return {c: memory for c, report, memory in zip(clients, reports, memories, strict=True) if report.status == "ok"}


def cut(cohort: list[int], blocks: int) -> list[list[int]]:
    """The cohort as that many blocks of consecutive positions, or as many as it has clients; sizes differ by one."""
    count = min(blocks, len(cohort))
    return [cohort[len(cohort) * i // count : len(cohort) * (i + 1) // count] for i in range(count)]


def num_bytes(vectors: Mapping[str, Any]) -> int:
    """The size of named vectors, arrays or tensors, as they would travel."""
    return sum(v.nbytes for v in vectors.values())


def mean_loss(reports: Iterable[Report]) -> float | None:
    """The cohort's training loss, weighted by examples; None where nobody has one."""
    losses = [(r.train_loss, r.num_examples) for r in reports if r.train_loss is not None]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses) if losses else None


def finite(vectors: Vectors) -> bool:
    """Whether every number in them is finite."""
    # The sum of squares is fast, and finite only where all are; where it is not, it may have overflowed.
    return all(math.isfinite(np.vdot(v, v)) or bool(np.isfinite(v).all()) for v in vectors.values())
