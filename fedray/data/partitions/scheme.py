"""The protocol of a partition scheme, and the checks and cuts that schemes share."""

from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from fedray.core.errors import BadInputError

Shards = list[np.ndarray]


@runtime_checkable
class Partition(Protocol):
    """A partition scheme: a section of the settings with a name and a method `split`."""

    name: ClassVar[str]

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when there are too few labels."""


def check(labels: np.ndarray, clients: int, min_size: int) -> None:
    """Raise BadInputError where `labels` [n] are too few for `min_size` examples a client, or there is no client."""
    check_population(clients)
    if clients * min_size > len(labels):
        each = "example" if min_size == 1 else "examples"
        raise BadInputError(
            f"{clients} clients with at least {min_size} {each} each need {clients * min_size} examples, "
            f"but the training set has {len(labels)}"
        )


def check_population(clients: int) -> None:
    if clients < 1:
        raise BadInputError(f"a population needs at least one client, not {clients}")


def cut(rows: np.ndarray, sizes: np.ndarray) -> Shards:
    """Consecutive parts of `rows` with these sizes."""
    ends = np.cumsum(sizes).tolist()
    return [rows[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
