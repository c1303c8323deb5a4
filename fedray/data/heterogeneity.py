"""Measures of how much the clients of a partition differ."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedray.data.partitions import count_holders, label_counts
from fedray.data.partitions.scheme import Shards

FAR = 20  # sizes that differ by more than this factor are counted in bins of geometric width


@dataclass(frozen=True)
class Heterogeneity:
    """The measures of one partition. Means are over clients, with equal weights."""

    distance_mean: float
    """Total variation distance, 0..1, between a client's labels and those of the whole training set."""
    distance_max: float
    classes_mean: float
    """The mean number of classes that a client holds."""
    effective_classes: float
    """The mean exp(entropy) of a client's labels: 1 where a client has one class, the number of classes where they are
    even."""
    size_variation: float
    """The coefficient of variation of the clients' sizes: standard deviation over mean."""
    size_gini: float
    """The Gini coefficient of the sizes: 0 where all are equal, nearly 1 where one client has nearly everything."""
    unused: int
    """Examples that are in no shard."""
    shared: int
    """Examples that are in several shards."""


def measure(shards: Shards, labels: np.ndarray, classes: int) -> Heterogeneity:
    """The measures of these shards. `labels` [n] of all examples are below `classes`; no shard may be empty."""
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
    """A histogram of `sizes` above 0 in at most `most` bins: the least and the largest size of a bin, and its count.

    Bins are about equally wide. Where sizes differ by more than a factor of FAR, bin edges grow by about the same
    factor.
    """
    low, high = int(sizes.min()), int(sizes.max())
    space = np.geomspace if high > FAR * low else np.linspace
    edges = np.unique(np.rint(space(low, high + 1, most + 1)).astype(np.int64))
    counts, _ = np.histogram(sizes, edges)
    bins = zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
    return [(first, after - 1, count) for (first, after), count in bins]
