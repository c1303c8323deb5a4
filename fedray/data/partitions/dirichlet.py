"""Label skew: mixes of classes drawn from a Dirichlet distribution."""

import heapq
from typing import ClassVar

import numpy as np

from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.data.partitions.scheme import Shards, check, cut

REDRAWS = 10
EVEN = 1e100  # shares of this alpha are even to the last digit; the sums of much larger ones overflow


@section
class Dirichlet:
    """Deal out each class by shares drawn from a symmetric Dirichlet distribution; a small alpha is a strong skew.

    Dirichlet labels are due to Hsu, Qi, Brown 2019, "Measuring the effects of non-identical data distribution for
    federated visual classification" (arXiv:1909.06335), who draw each client's mix of classes. This is the class-wise
    form of Yurochkin et al. 2019, "Bayesian nonparametric federated learning of neural networks" (arXiv:1905.12022),
    and of NIID-Bench (Li et al. 2022, arXiv:2102.02079). A client that already holds its even share n/N gets no more.
    Their code redraws without limit until every shard is large enough. Here the tenth draw is repaired: shards that are
    too small get random examples of the largest.

    `balanced` is Hsu's own form, with equal sizes. One client after another draws its mix, and then its examples from
    the rows that are left. The share of a class that is used up goes to the other classes.
    """

    name: ClassVar[str] = "dirichlet"
    alpha: float = setting(
        0.5, "Concentration of the clients' shares of each class; small is skewed, large is even.", gt=0
    )
    min_size: int = setting(1, "Least number of examples that a client holds.", unit="examples", ge=1)
    balanced: bool = setting(False, "Whether each client draws its own mix of classes, and all shards have equal size.")

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients * min_size."""
        check(labels, clients, self.min_size)
        rng = generator(seed, "partition")
        if self.balanced:
            return self._draw_balanced(labels, clients, rng)
        for _ in range(REDRAWS):
            rows, owners, sizes = self._draw(labels, clients, rng)
            if sizes.min() >= self.min_size:
                return cut(rows[np.lexsort((rows, owners))], sizes)
        shards = cut(rows[np.argsort(owners, kind="stable")], sizes)
        repaired = _repair([rng.permutation(shard) for shard in shards], self.min_size)
        return [np.sort(shard) for shard in repaired]

    def _draw_balanced(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> Shards:
        """Shards whose sizes differ by at most one, each with its own mix of the classes that are left."""
        pools = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        left = np.array([len(pool) for pool in pools])
        shards = []
        for client in range(clients):
            mix = rng.dirichlet(np.full(len(pools), min(self.alpha, EVEN)))
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
        """All rows class by class, the client of each row, and the number of rows of each client."""
        dealt, owners = [], []
        sizes = np.zeros(clients, np.int64)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, min(self.alpha, EVEN))) * (sizes * clients < len(labels))
            # A tiny alpha may give all of a class to full clients, or underflow: then one client with room takes it.
            if not shares.sum() > 0:
                shares = np.zeros(clients)
                shares[rng.choice(np.flatnonzero(sizes * clients < len(labels)))] = 1.0
            ends = np.rint(np.cumsum(shares / shares.sum()) * len(rows)).astype(np.int64)
            taken = np.diff(ends, prepend=0)
            dealt.append(rows)
            owners.append(np.repeat(np.arange(clients), taken))
            sizes += taken
        return np.concatenate(dealt), np.concatenate(owners), sizes


def _repair(shards: Shards, min_size: int) -> Shards:
    """Move examples, each from the largest shard, to the shards below `min_size`; of equal shards the first gives."""
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
