"""Each client's own test examples: drawn from the test set with the label distribution of its shard."""

import numpy as np

from fedray.core.randomness import generator


def own_test_size(test_examples: int, clients: int) -> int:
    """The examples that each client is evaluated on by default: its part of the test set, from 10 to 1000."""
    return min(1000, max(10, test_examples // clients))


def draw_own_tests(counts: np.ndarray, labels: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Rows of the test set for each client, sorted int64, at most `size` and at least one; a pure function.

    `counts` [N, classes] are the labels of the clients' shards, `labels` [n] those of the test set. Within a client no
    row repeats; clients may share rows. Of each class a client gets its share of `size`, rounded so that they add up; a
    client whose classes the test set has too few of gets fewer, so that the shares stay. Classes of which the test set
    has none are left out.
    """
    pools = [np.flatnonzero(labels == label) for label in range(counts.shape[1])]
    available = np.array([len(pool) for pool in pools])
    drawn = []
    for client, own in enumerate(counts):
        wanted = apportion(np.where(available > 0, own, 0), size, available)
        rng = generator(seed, "client-test", client=client)
        rows = [rng.choice(pool, n, replace=False) for pool, n in zip(pools, wanted.tolist(), strict=True) if n]
        drawn.append(np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.int64))
    return drawn


def apportion(weights: np.ndarray, size: int, available: np.ndarray) -> np.ndarray:
    """`size` or fewer as whole numbers in proportion to `weights`, none above `available`: int64, one for each weight.

    The largest remainders are rounded up (Hamilton's method), of equal ones the first. `available` is at least 1 where
    the weight is not 0.
    """
    weights, available = np.asarray(weights, np.int64), np.asarray(available, np.int64)
    total, held = weights.sum(), weights > 0
    if not total:
        return weights
    size = min(size, int(np.min(available[held] * total // weights[held])))
    whole, left = np.divmod(weights * size, total)
    whole[np.argsort(-left, kind="stable")[: size - whole.sum()]] += 1
    return whole
