"""How much the clients of a partition differ, in numbers."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedray.data.partitions import count_holders, label_counts
from fedray.data.partitions.scheme import Shards

FAR = 20  # sizes that differ by more than this factor are counted in bins that grow by a factor


@dataclass(frozen=True)
class Heterogeneity:
    """The figures of one partition; means are over clients, each counted once."""

    distance_mean: float
    """Total variation distance, 0..1, between a client's labels and those of the whole training set."""
    distance_max: float
    classes_mean: float
    """How many classes a client holds."""
    effective_classes: float
    """exp(entropy) of a client's labels: 1 where all are the same, the number of classes where they are even."""
    size_variation: float
    """Standard deviation of the clients' sizes, by their mean: the coefficient of variation."""
    size_gini: float
    """Gini coefficient of the sizes: 0 where all are equal, nearly 1 where one client has nearly everything."""
    unused: int
    """Examples that are in no shard."""
    shared: int
    """Examples that are in several shards."""


def measure(shards: Shards, labels: np.ndarray, classes: int) -> Heterogeneity:
    """The figures of these shards of the examples whose `labels` [n] are below `classes`; no shard may be empty."""
    counts = label_counts(shards, labels, classes)
    sizes, holders = counts.sum(1), count_holders(shards, len(labels))
    shares = counts / sizes[:, None]
    distances = np.abs(shares - np.bincount(labels, minlength=classes) / len(labels)).sum(1) / 2
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    ranks = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
    return Heterogeneity(
        distance_mean=float(distances.mean()),
        distance_max=float(distances.max()),
        classes_mean=float((counts > 0).sum(1).mean()),
        effective_classes=float(np.exp(-(shares * logs).sum(1)).mean()),
        size_variation=float(sizes.std() / sizes.mean()),
        size_gini=float((ranks * np.sort(sizes)).sum() / (len(sizes) * sizes.sum())),
        unused=int((holders == 0).sum()),
        shared=int((holders > 1).sum()),
    )


def count_sizes(sizes: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """A histogram of whole numbers above 0 in at most so many bins: the least and the largest of each, and how many.

    Bins are about equally wide, or, where sizes differ by more than a factor of FAR, grow by about the same factor.
    """
    low, high = int(sizes.min()), int(sizes.max())
    space = np.geomspace if high > FAR * low else np.linspace
    edges = np.unique(np.rint(space(low, high + 1, most + 1)).astype(np.int64))
    counts, _ = np.histogram(sizes, edges)
    bins = zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
    return [(first, after - 1, count) for (first, after), count in bins]
