"""The protocol of a population."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from fedray.core.scores import Performance
from fedray.core.updates import Event, Scores, Updates, Vectors
from fedray.data.dataset import Split
from fedray.server.task import Handle, Task

Where = Literal["driver", "actors"]


def check_where(task: Task, where: Where) -> None:
    """ValueError where updates would be summed that are to stay at the actors, each by itself."""
    if where == "actors" and task.aggregator.linear:
        raise ValueError(
            "updates stay at the actors each by itself, and this task's aggregator sums them: give it "
            "aggregator = Each() (server/aggregators.py)"
        )


class Population(Protocol):
    """All N clients, in this process or in others. Populations return the same bits for the same calls.

    A task is handed out, taken back, and kept or discarded. Several handles may be out at once, with different clients,
    and their order changes no bit.
    """

    def __len__(self) -> int:
        """The number of clients, N."""

    @property
    def sizes(self) -> np.ndarray:
        """The number of examples of each client: int64 [N]."""

    def submit(self, task: Task, clients: Sequence[int]) -> Handle:
        """Hand a task to clients, in cohort order, and return at once.

        ValueError where a client has a handle that is neither kept nor discarded.
        """

    def take(self, handle: Handle, where: Where = "driver") -> Updates:
        """Wait for a handle and return its updates, in cohort order. A handle is taken once.

        Updates are summed in blocks where the aggregator is linear; otherwise `each` has every client's own. With
        where="actors" it has references to them instead, fit to be inputs of a task, and the driver reads no vector;
        that is for aggregators that are not linear. A client whose process is lost trains again or, with task.drop, is
        missing. ClientError where a client's code failed, LostActorError where a call lost its actors again and again.
        """

    def keep(self, handle: Handle, t: int | None = None) -> None:
        """What the clients of a handle have learned to remember counts, from round t on; without t the task's own.

        Memories change here alone. The handle is closed.
        """

    def discard(self, handle: Handle) -> None:
        """Close a handle as if it had never been. Calls that wait are cancelled, those that run end at their next step.
        What they held is freed."""

    def evaluate(
        self, state: Vectors, split: Split = "test", top_k: int | None = None, scores: bool = False
    ) -> Performance:
        """The performance of the state's model on a whole split; with `top_k`, also its top-k accuracy.

        `scores` asks for the model's outputs as well, which come in any case where targets are no classes.
        """

    def evaluate_clients(self, task: Task) -> list[Scores]:
        """The scores of each client's own model on the client's own test examples.

        The task's message is the broadcast of the state after round t. The population must have been given such
        examples.
        """

    def rows(self) -> dict[str, Any]:
        """The columns of the population table, with a row for each client."""

    def events(self) -> list[Event]:
        """The events of the population's processes since the last call."""

    def memories(self, t: int, since: int | None = None) -> Iterator[tuple[int, Vectors]]:
        """Each client's memory after round t, one at a time; with `since`, those that changed after that round.

        t is the last round kept, or the one before it.
        """

    def count_memories(self, t: int, since: int | None = None) -> int:
        """The number of memories that `memories` gives."""

    def remember(self, client: int, memory: Vectors) -> None:
        """Give a client its memory back when a run is resumed."""

    def close(self) -> None:
        """Release everything that is held for this run."""
