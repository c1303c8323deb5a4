"""Shards drawn with replacement across clients, for populations larger than the data."""

from typing import ClassVar

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.data.partitions.scheme import Shards, check_population

DRAWN_TOGETHER = 2**16  # examples drawn from one generator; another number gives other shards


@section
class Sampled:
    """Draw each client's examples at random from the whole training set, with replacement across clients.

    The population may be larger than the data. Within a shard all examples differ. Two shards may share examples, and
    an example may be in no shard. A client's shard does not depend on the number of clients.
    """

    name: ClassVar[str] = "sampled"
    examples: int = setting(
        50, "Different examples that a client holds; other clients may hold them too.", unit="examples", ge=1
    )

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < examples."""
        check_population(clients)
        if self.examples > len(labels):
            raise BadInputError(
                f"partition.examples is {self.examples}, but the training set has {len(labels)} examples"
            )
        together = max(1, DRAWN_TOGETHER // self.examples)
        chunks = range(-(-clients // together))  # the last chunk is drawn whole, too
        drawn = (_subsets(len(labels), self.examples, together, generator(seed, "partition", client=i)) for i in chunks)
        return [shard for subsets in drawn for shard in subsets][:clients]


def _subsets(n: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random subsets of range(n), each of `size` numbers, all subsets equally likely: sorted [count, size]."""
    if 2 * size > n:  # the numbers left out are fewer to draw
        kept = np.ones((count, n), bool)
        np.put_along_axis(kept, _subsets(n, n - size, count, rng), False, axis=1)
        return np.nonzero(kept)[1].reshape(count, size)
    subsets = np.sort(rng.integers(n, size=(count, size)), axis=1)
    while (again := subsets[:, 1:] == subsets[:, :-1]).any():
        # Replacing the second of two equal numbers prefers no number, so all subsets stay equally likely.
        subsets[:, 1:][again] = rng.integers(n, size=again.sum())
        subsets.sort(axis=1)
    return subsets
