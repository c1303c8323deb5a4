"""The updates and reports of a cohort, and the only way to sum updates.

An update is client minus server: named float32 vectors that the server adds. Sums run in cohort order inside a block
of consecutive cohort positions, and blocks are added in order. An actor and the driver sum a block by the same float32
operations in the same order, so the bits are the same.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Vectors = dict[str, np.ndarray]
SAVED_TYPES = {
    "<f8": "F64",
    "<f4": "F32",
    "<f2": "F16",
    "<i8": "I64",
    "<i4": "I32",
    "<i2": "I16",
    "|i1": "I8",
    "|u1": "U8",
    "|b1": "BOOL",
}
"""The types of vectors that a checkpoint can hold, and their names in safetensors."""
Scores = tuple[int, float, float | None]  # a client's own test examples, their mean loss and accuracy (None: of values)


@dataclass(frozen=True)
class Report:
    """One client's work in one round. `seconds` is its local training; the bytes are those it received and sent.

    `cpu_seconds` is the CPU time of the training process meanwhile, of all its threads.

    `status` is "ok" for a client whose update counts. Otherwise it is "non_finite", or "lost", "dropout" or "surplus"
    (server/participation.py). Reports with the last three have no loss, norm or seconds.
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
    """The number of images trained on, each counted as often as it was used."""
    padding: int = 0
    """The number of images computed only as padding, where many clients are trained as one program."""
    squeezed: int = 0
    """The number of clients at once for which the GPU had room, where that was fewer than planned; otherwise 0."""
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Event:
    """An event of a run's process: its kind, the process where that is known, and the clients at work in it."""

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
"""Each kind of Event in words, except "actor_started", which is not reported."""


class Sum(Protocol):
    """A sum of updates, as an aggregator that is linear wants it. Actors and the driver add by the same operations."""

    vectors: Vectors
    """The sum. `add` and `add_update` write to its arrays, except read-only ones; on a device they are tensors."""
    weight: float
    """The sum of the weights."""

    def add_update(self, update: Mapping[str, Any], weight: float) -> None:
        """Add one client's update, arrays or tensors, which is not changed."""

    def add(self, other: Any) -> None:
        """Add a sum of the same kind. The vectors of the first one are taken over, and not written to if read-only."""

    @property
    def num_bytes(self) -> int:
        """The bytes of its vectors when they are sent."""


@dataclass
class WeightedSum:
    """The float32 sum of updates, each times its weight, and the sum of the weights."""

    vectors: Vectors = field(default_factory=dict)
    weight: float = 0.0

    def add_update(self, update: Mapping[str, Any], weight: float) -> None:
        """Add one client's update. The product is rounded before the sum, on the host and on a device."""
        if weight != 1 or not self.vectors:
            scale = float(np.float32(weight))
            update = {name: vector * scale for name, vector in update.items()}
        self.add(WeightedSum(dict(update), weight))

    def add(self, other: "WeightedSum") -> None:
        """Add a sum. The vectors of the first one are taken over. Read-only arrays are not written to."""
        if not self.vectors:
            self.vectors = dict(other.vectors)
        else:
            for name, vector in other.vectors.items():
                if is_read_only(self.vectors[name]):
                    self.vectors[name] = self.vectors[name] + vector
                else:
                    self.vectors[name] += vector
        self.weight += other.weight

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.vectors)


def is_read_only(vector: Any) -> bool:
    """Whether it is an array that must not be written to. Tensors are none."""
    return isinstance(vector, np.ndarray) and not vector.flags.writeable


@dataclass(frozen=True)
class Trained:
    """The result of one call to a population's worker: a block's sum, or its clients' own vectors, in cohort order.

    Exactly one of `sum` and `each` is filled, with the vectors of the clients whose report's status is "ok".
    """

    reports: list[Report]
    sum: Sum | None = None
    each: list[Vectors] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """The bytes of all its vectors."""
        return self.sum.num_bytes if self.sum else sum(map(num_bytes, self.each))


@dataclass(frozen=True)
class Seconds:
    """The wall-clock time of a cohort's training in four shares that add up to it.

    With several cores at work, a second of one core counts as a second divided by the number of cores.
    """

    train: float = 0.0
    """The clients' local training."""
    aggregate: float = 0.0
    """Summing updates, in the actors and in the driver."""
    idle: float = 0.0
    """Cores without work, mostly while they wait for the last block."""
    transfer: float = 0.0
    """Sending the message, returning the updates, and everything else that Ray does."""


@dataclass(frozen=True)
class Updates:
    """A cohort's updates: their weighted sum, or, for an aggregator that is not linear, each client's own vectors.

    `reports`, `each` and `weights` are in cohort order, of the clients whose update counts. `each` is empty where the
    aggregator is linear; left at the actors, it has references to vectors. `missing` are the reports of clients whose
    update was not finite or was lost. `retries` counts the calls that were repeated because an actor was lost.
    """

    sum: Sum
    reports: list[Report]
    each: list[Any] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    missing: list[Report] = field(default_factory=list)
    retries: int = 0
    seconds: Seconds = Seconds()


def cut(cohort: list[int], blocks: int) -> list[list[int]]:
    """The cohort in blocks of consecutive positions, at most one per client. Sizes differ by at most one."""
    count = min(blocks, len(cohort))
    return [cohort[len(cohort) * i // count : len(cohort) * (i + 1) // count] for i in range(count)]


def num_bytes(vectors: Mapping[str, Any]) -> int:
    """The bytes of named vectors, arrays or tensors, when they are sent."""
    return sum(v.nbytes for v in vectors.values())


def mean_loss(reports: Iterable[Report]) -> float | None:
    """The cohort's training loss, weighted by examples; None where no report has one."""
    losses = [(r.train_loss, r.num_examples) for r in reports if r.train_loss is not None]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses) if losses else None


def finite(vectors: Vectors) -> bool:
    """Whether every number in the vectors is finite."""
    # The sum of squares is fast. Where it is finite, so are all numbers; where it is not, it may only have overflowed.
    return all(math.isfinite(np.vdot(v, v)) or bool(np.isfinite(v).all()) for v in vectors.values())
