"""A task is all that clients are asked to do. A handle is a task in their hands, not yet kept or discarded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedray.core.algorithm import Address, Algorithm, Transform
from fedray.core.updates import Report, Vectors
from fedray.server.aggregators import Aggregator, Mean


@dataclass(frozen=True, eq=False)
class Task:
    """What clients are asked to do. It is not changed once it was submitted, nor are its vectors."""

    algorithm: Algorithm
    message: Vectors
    """What every client gets, as the algorithm's `broadcast` makes it."""
    t: int
    """The round that the message is of: part of the address of every random draw."""
    lr: float
    chain: tuple[Transform, ...] = ()
    """What is done to each update before it is sent, in order."""
    aggregator: Aggregator = Mean()  # noqa: RUF009  it is frozen
    weights: Mapping[int, float] | None = None
    """The weight of each client's update, p_k; None: algorithm.weight(num_examples)."""
    drop: bool = False
    """Whether a client whose process is lost is left out. Otherwise it trains again, to the same bits."""
    attempt: int = 0
    """How often these clients were asked before from this message's model. Each attempt has draws of its own."""
    inputs: tuple[Any, ...] = ()
    """What take(handle, where="actors") left: references, or vectors. They are arguments of the call itself, so that
    whoever trains fetches them from whoever has them. The algorithm's `receive` puts them into the message."""

    @property
    def remembers(self) -> bool:
        """Whether clients keep a memory of it between rounds: the algorithm's, or that of a transform."""
        return self.algorithm.remembers or any(transform.remembers for transform in self.chain)

    def weight(self, report: Report) -> float:
        """The weight of a client's update."""
        if self.weights is not None:
            return self.weights[report.client]
        return self.algorithm.weight(report.num_examples)

    def address(self, seed: int, client: int) -> Address:
        return Address(seed, self.t, client, self.attempt)


@dataclass(eq=False)
class Handle:
    """A task in the hands of clients, from `submit` to `keep` or `discard`."""

    task: Task
    clients: list[int]
    """In cohort order."""
    state: Literal["", "being taken", "taken", "kept", "discarded"] = ""
