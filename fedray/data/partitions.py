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

    `balanced` is Hsu's own form, with equal sizes: a client after the other draws its mix and then its examples from
    what is left; a class that is used up leaves its share to the others.
    """

    name: ClassVar[str] = "dirichlet"
    alpha: float = setting(
        0.5, "Concentration of the clients' shares of each class; small is skewed, large is even.", gt=0
    )
    min_size: int = setting(1, "Least number of examples that a client holds.", unit="examples", ge=1)
    balanced: bool = setting(False, "Whether each client draws its mix of classes itself, and all hold equally many.")

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients * min_size."""
        _check(labels, clients, self.min_size)
        rng = generator(seed, "partition")
        if self.balanced:
            return self._draw_balanced(labels, clients, rng)
        for _ in range(REDRAWS):
            rows, owners, sizes = self._draw(labels, clients, rng)
            if sizes.min() >= self.min_size:
                return _cut(rows[np.lexsort((rows, owners))], sizes)
        shards = _cut(rows[np.argsort(owners, kind="stable")], sizes)
        repaired = _repair([rng.permutation(shard) for shard in shards], self.min_size)
        return [np.sort(shard) for shard in repaired]

    def _draw_balanced(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> Shards:
        """Shards whose sizes differ by one at most, each with its own mix of the classes that are left."""
        pools = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        left = np.array([len(pool) for pool in pools])
        shards = []
        for client in range(clients):
            mix = rng.dirichlet(np.full(len(pools), self.alpha))
            taken = np.zeros_like(left)
            while missing := len(labels) * (client + 1) // clients - len(labels) * client // clients - taken.sum():
                shares = np.nan_to_num(mix) * (left > taken)
                if not shares.sum() > 0:  # the classes of the mix are used up, or a tiny alpha underflowed
                    shares = np.zeros(len(pools))
                    shares[rng.choice(np.flatnonzero(left > taken))] = 1.0
                taken += np.minimum(rng.multinomial(missing, shares / shares.sum()), left - taken)
            rows = [pool[end - n : end] for pool, end, n in zip(pools, left, taken, strict=True)]
            shards.append(np.sort(np.concatenate(rows)))
            left -= taken
        return shards

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
class ClassesPerClient:
    """Give each client so many classes, and deal the examples of each class out evenly to those who have it.

    The pathological split of McMahan et al. 2017 (arXiv:1602.05629) as NIID-Bench (Li et al. 2022, arXiv:2102.02079)
    draws it: client i has class i modulo their number, and others at random. Here every class is given to somebody
    before any is drawn, also where there are fewer clients than classes.
    """

    name: ClassVar[str] = "classes_per_client"
    classes: int = setting(2, "Different classes that a client holds.", ge=1)

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError where they do not go round."""
        _check(labels, clients, 1)
        present, counts = np.unique(labels, return_counts=True)
        if self.classes > len(present) or self.classes * clients < len(present):
            raise BadInputError(
                f"{clients} clients with partition.classes = {self.classes} each do not suit {len(present)} classes "
                "in the training set: none can be held twice by one client, nor be left over"
            )
        rng = generator(seed, "partition")
        owners: list[list[int]] = [[] for _ in present]
        for client in range(clients):
            given = {client % len(present), *range(client, len(present), clients)[: self.classes]}
            others = [k for k in range(len(present)) if k not in given]
            given |= set(rng.choice(others, self.classes - len(given), replace=False).tolist())
            for k in sorted(given):
                owners[k].append(client)
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label, held_by, count in zip(present, owners, counts, strict=True):
            if len(held_by) > count:
                raise BadInputError(f"{len(held_by)} clients share the {count} examples of class {label}; use fewer")
            rows = rng.permutation(np.flatnonzero(labels == label))
            for client, part in zip(held_by, np.array_split(rows, len(held_by)), strict=True):
                parts[client].append(part)
        return [np.sort(np.concatenate(part)) for part in parts]


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


PARTITIONS: dict[str, type[Partition]] = {
    scheme.name: scheme for scheme in (Iid, Contiguous, Dirichlet, ClassesPerClient, Sampled)
}


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
