"""The protocol of a population."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from fedray.core.scores import Performance
from fedray.core.updates import Event, Scores, Updates, Vectors
from fedray.data.dataset import Split


class Population(Protocol):
    """All N clients, in this process or in others. Populations return the same bits for the same calls."""

    def __len__(self) -> int:
        """The number of clients, N."""

    @property
    def sizes(self) -> np.ndarray:
        """The number of examples of each client: int64 [N]."""

    def train(
        self, algorithm: Any, cohort: list[int], message: Vectors, t: int, lr: float, drop: bool = False
    ) -> Updates:
        """Train every client of the cohort from the message. Updates are summed in blocks, in cohort order.

        A client whose process is lost trains again or, with `drop`, is missing. Memories of a round that is trained
        again do not count.
        """

    def evaluate(self, state: Vectors, split: Split = "test", top_k: int | None = None) -> Performance:
        """The performance of the state's model on a whole split; with `top_k`, also its top-k accuracy."""

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        """The scores of each client's own model on the client's own test examples.

        `message` is the broadcast of the state after round t. The population must have been given such examples.
        """

    def rows(self) -> dict[str, Any]:
        """The columns of the population table, with a row for each client."""

    def events(self) -> list[Event]:
        """The events of the population's processes since the last call."""

    def memories(self, t: int) -> Iterator[tuple[int, Vectors]]:
        """Each client's memory after round t, one at a time. t is the last round trained, or the one before it."""

    def remember(self, client: int, memory: Vectors) -> None:
        """Give a client its memory back when a run is resumed."""

    def close(self) -> None:
        """Release everything that is held for this run."""
