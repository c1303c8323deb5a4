"""Test examples for each client, drawn from the test set with the label distribution of the client's shard."""

import numpy as np

from fedray.core.randomness import generator


def own_test_size(test_examples: int, clients: int) -> int:
    """The examples that each client is evaluated on by default: its part of the test set, from 10 to 1000."""
    return min(1000, max(10, test_examples // clients))


def draw_own_tests(counts: np.ndarray, labels: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Rows of the test set for each client, sorted int64, at least one and at most `size`; a pure function.

    `counts` [N, classes] are the label counts of the clients' shards; `labels` [n] are the test set's. A client's rows
    are distinct; clients may share rows. A client gets of each class its share of `size`, rounded so that the shares
    add up. Where the test set has too few examples of a client's classes, the client gets fewer rows in the same
    proportions. Classes without test examples are left out. A client with only such classes gets no rows.
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
    """Whole numbers in proportion to `weights`, int64, each at most `available`. They add up to `size` or less.

    The largest remainders are rounded up (Hamilton's method); of equal ones, the first. `available` must be at least 1
    where the weight is above 0.
    """
    weights, available = np.asarray(weights, np.int64), np.asarray(available, np.int64)
    total, held = weights.sum(), weights > 0
    if not total:
        return weights
    size = min(size, int(np.min(available[held] * total // weights[held])))
    whole, left = np.divmod(weights * size, total)
    whole[np.argsort(-left, kind="stable")[: size - whole.sum()]] += 1
    return whole
