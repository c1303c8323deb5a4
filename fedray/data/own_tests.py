"""Each client's own test examples: drawn from the test set with the label distribution of its shard."""

from collections.abc import Sequence

import numpy as np

from fedray.randomness import generator


def draw_own_tests(counts: np.ndarray, labels: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Rows of the test set for each client, sorted int64, at most `size` and at least one; a pure function.

    `counts` [N, classes] are the labels of the clients' shards, `labels` [n] those of the test set. Within a client no
    row repeats; clients may share rows. Of each class a client gets its share of `size`, rounded so that they add up; a
    client whose classes the test set has too few of gets fewer, so that the shares stay.
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


def apportion(weights: np.ndarray, size: int, available: Sequence[int] | np.ndarray) -> np.ndarray:
    """`size` or fewer as whole numbers in proportion to `weights`, none above `available`: int64, one for each weight.

    The largest remainders are rounded up (Hamilton's method), of equal ones the first.
    """
    if not weights.sum():
        return np.zeros(len(weights), np.int64)
    shares = weights / weights.sum()
    room = np.min(np.asarray(available)[shares > 0] / shares[shares > 0])
    size = max(1, min(size, int(room + 1e-9)))
    exact = shares * size
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = np.argsort(whole - exact, kind="stable")[: size - whole.sum()]
    whole[rest] += 1
    return np.minimum(whole, available)
