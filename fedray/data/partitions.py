"""Who holds which examples: one frozen class per scheme, labels in, row numbers out.

Every scheme keeps one law: each example is in exactly one shard (of `sampled`, in any number of them), no shard is
empty, and the same seed gives the same shards.
"""

import hashlib
import heapq
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from fedray.errors import BadInputError
from fedray.randomness import generator
from fedray.settings import section, setting

Shards = list[np.ndarray]
REDRAWS = 10
DRAWN_TOGETHER = 2**16  # examples that `sampled` draws from one generator; another number gives other shards


@runtime_checkable
class Partition(Protocol):
    """A scheme: a section of the settings with a name, which `split`s."""

    name: ClassVar[str]

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when there are too few."""


@section
class Iid:
    """Shuffle, then cut into equal parts: sizes differ by at most one."""

    name: ClassVar[str] = "iid"

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients."""
        _check(labels, clients, 1)
        order = generator(seed, "partition").permutation(len(labels))
        return [np.sort(rows) for rows in np.array_split(order, clients)]


@section
class Contiguous:
    """Cut the examples in the order they have into equal contiguous parts, as textbooks do; no seed changes it."""

    name: ClassVar[str] = "contiguous"

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of consecutive int64 rows of `labels` [n] per client; BadInputError when n < clients."""
        _check(labels, clients, 1)
        return np.array_split(np.arange(len(labels), dtype=np.int64), clients)


@section
class Dirichlet:
    """Deal out each class by shares drawn from a symmetric Dirichlet distribution; a small alpha is a strong skew.

    Dirichlet labels are due to Hsu, Qi, Brown 2019, "Measuring the effects of non-identical data distribution for
    federated visual classification" (arXiv:1909.06335), who draw each client's mix of classes. This is the class-wise
    form of Yurochkin et al. 2019, "Bayesian nonparametric federated learning of neural networks" (arXiv:1905.12022),
    and of NIID-Bench (Li et al. 2022, arXiv:2102.02079): a client that already holds its even share n/N gets no more.
    Theirs redraws until every shard is large enough, for ever if need be; here, after 10 draws, the last one is
    repaired: shards that are too small get random examples of the largest.
    """

    name: ClassVar[str] = "dirichlet"
    alpha: float = setting(
        0.5, "Concentration of the clients' shares of each class; small is skewed, large is even.", gt=0
    )
    min_size: int = setting(1, "Least number of examples that a client holds.", unit="examples", ge=1)

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients * min_size."""
        _check(labels, clients, self.min_size)
        rng = generator(seed, "partition")
        for _ in range(REDRAWS):
            rows, owners, sizes = self._draw(labels, clients, rng)
            if sizes.min() >= self.min_size:
                return _cut(rows[np.lexsort((rows, owners))], sizes)
        shards = _cut(rows[np.argsort(owners, kind="stable")], sizes)
        repaired = _repair([rng.permutation(shard) for shard in shards], self.min_size)
        return [np.sort(shard) for shard in repaired]

    def _draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All rows class by class, the client that each goes to, and how many each client gets."""
        dealt, owners = [], []
        sizes = np.zeros(clients, np.int64)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, self.alpha)) * (sizes * clients < len(labels))
            if (
                not shares.sum() > 0
            ):  # a tiny alpha gave all to clients that are full, or underflowed: one other takes the class
                shares = np.zeros(clients)
                shares[rng.choice(np.flatnonzero(sizes * clients < len(labels)))] = 1.0
            ends = np.rint(np.cumsum(shares / shares.sum()) * len(rows)).astype(np.int64)
            taken = np.diff(ends, prepend=0)
            dealt.append(rows)
            owners.append(np.repeat(np.arange(clients), taken))
            sizes += taken
        return np.concatenate(dealt), np.concatenate(owners), sizes


@section
class Sampled:
    """Draw each client's examples at random from the whole training set, with replacement across clients.

    So a population may be larger than the data. Within a shard all examples differ, but two shards may share some, and
    an example may be in no shard. A client's shard does not depend on how many clients there are.
    """

    name: ClassVar[str] = "sampled"
    examples: int = setting(
        50, "Different examples that a client holds; other clients may hold them too.", unit="examples", ge=1
    )

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < examples."""
        if clients < 1:
            raise BadInputError(f"a population needs at least one client, not {clients}")
        if self.examples > len(labels):
            raise BadInputError(
                f"partition.examples is {self.examples}, but the training set has {len(labels)} examples"
            )
        together = max(1, DRAWN_TOGETHER // self.examples)
        chunks = range(-(-clients // together))  # the last one is drawn whole as well
        drawn = (_subsets(len(labels), self.examples, together, generator(seed, "partition", client=i)) for i in chunks)
        return [shard for subsets in drawn for shard in subsets][:clients]


PARTITIONS: dict[str, type[Partition]] = {scheme.name: scheme for scheme in (Iid, Contiguous, Dirichlet, Sampled)}


def partition_id(rows: Shards) -> str:
    """A short hash of who holds which rows, in client order: 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for shard in rows:
        digest.update(len(shard).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(shard, dtype="<i8").tobytes())
    return digest.hexdigest()


def label_counts(rows: Shards, labels: np.ndarray, classes: int) -> np.ndarray:
    """How many examples of each class each client holds: int64 [clients, classes]; `labels` [n] are below `classes`."""
    cells = np.repeat(np.arange(len(rows)) * classes, [len(shard) for shard in rows])
    cells += labels[np.concatenate(rows)]
    return np.bincount(cells, minlength=len(rows) * classes).reshape(len(rows), classes)


def _check(labels: np.ndarray, clients: int, min_size: int) -> None:
    if clients < 1:
        raise BadInputError(f"a population needs at least one client, not {clients}")
    if clients * min_size > len(labels):
        each = "example" if min_size == 1 else "examples"
        raise BadInputError(
            f"{clients} clients with at least {min_size} {each} each need {clients * min_size} examples, "
            f"but the training set has {len(labels)}"
        )


def _cut(rows: np.ndarray, sizes: np.ndarray) -> Shards:
    """Consecutive parts of these sizes."""
    ends = np.cumsum(sizes).tolist()
    return [rows[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _subsets(n: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random subsets of range(n), each of any `size` of its numbers with equal chance: sorted [count, size]."""
    if 2 * size > n:  # what is left out is less to draw
        kept = np.ones((count, n), bool)
        np.put_along_axis(kept, _subsets(n, n - size, count, rng), False, axis=1)
        return np.nonzero(kept)[1].reshape(count, size)
    subsets = np.sort(rng.integers(n, size=(count, size)), axis=1)
    while (again := subsets[:, 1:] == subsets[:, :-1]).any():
        # No number is preferred by replacing the second of two equal ones, so all subsets stay equally likely.
        subsets[:, 1:][again] = rng.integers(n, size=again.sum())
        subsets.sort(axis=1)
    return subsets


def _repair(shards: Shards, min_size: int) -> Shards:
    """Move single examples from whichever shard is largest to the shards below `min_size`; ties go by client number."""
    kept = [len(shard) for shard in shards]
    gained: list[list[int]] = [[] for _ in shards]
    largest = [(-size, client) for client, size in enumerate(kept)]
    heapq.heapify(largest)
    for client, size in enumerate(kept[:]):
        for _ in range(min_size - size):
            left, giver = heapq.heappop(largest)
            kept[giver] -= 1
            gained[client].append(shards[giver][kept[giver]])
            heapq.heappush(largest, (left + 1, giver))
    return [
        np.concatenate([shard[:size], np.array(more, dtype=np.int64)])
        for shard, size, more in zip(shards, kept, gained, strict=True)
    ]
