"""The protocol that every population keeps."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from fedray.core.scores import Performance
from fedray.core.updates import Event, Scores, Updates, Vectors
from fedray.data.dataset import Split


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
