"""Shards of equal size, from the examples in random order or in their own order."""

from typing import ClassVar

import numpy as np

from fedray.core.randomness import generator
from fedray.core.settings import section
from fedray.data.partitions.scheme import Shards, check


@section
class Iid:
    """Shuffle the examples and cut them into equal parts, whose sizes differ by at most one."""

    name: ClassVar[str] = "iid"

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients."""
        check(labels, clients, 1)
        order = generator(seed, "partition").permutation(len(labels))
        return [np.sort(rows) for rows in np.array_split(order, clients)]


@section
class Contiguous:
    """Cut the examples in their own order into equal contiguous parts, as textbooks do. The seed changes nothing."""

    name: ClassVar[str] = "contiguous"

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of consecutive int64 rows of `labels` [n] per client; BadInputError when n < clients."""
        check(labels, clients, 1)
        return np.array_split(np.arange(len(labels), dtype=np.int64), clients)
