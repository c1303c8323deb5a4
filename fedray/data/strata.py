"""Strata: the one group of each example, by which partitions deal out, tables count and clients' own tests are drawn.

Classes are their own strata. Real targets fall into bins by the quantiles of the first target. An example with several
labels counts under the rarest of them, as in the stratification of Sechidis, Tsoumakas, Vlahavas 2011, "On the
stratification of multi-label data", which deals out rare labels first.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedray.core.kinds import Kind

NONE = "none"
"""The name of the stratum of the examples without a label."""


@dataclass(frozen=True, eq=False)
class Strata:
    """The strata of two splits: int64 [n] in 0..K-1, and the names of the K strata."""

    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]


def strata(kind: Kind, train: np.ndarray, test: np.ndarray, names: tuple[str, ...], bins: int) -> Strata:
    """The strata of targets as Kind says, whose classes, labels or real targets have these names."""
    if kind.targets == "values":
        return by_quantile(train[:, 0], test[:, 0], bins)
    return by_rarest(train, test, names) if kind.targets == "labels" else Strata(train, test, names)


def by_quantile(train: np.ndarray, test: np.ndarray, bins: int) -> Strata:
    """At most `bins` bins of about as many training examples each. Equal targets share a bin, so there may be fewer.

    An edge is a training target itself, the first of its bin, so every machine gets the same bins.
    """
    ordered = np.sort(train)
    edges = np.unique(ordered[np.arange(1, bins) * len(ordered) // bins])
    edges = edges[edges > ordered[0]]
    said = [f"{edge:.4g}" for edge in edges.tolist()]
    if len(set(said)) < len(said):
        said = [str(edge) for edge in edges]  # all digits of float32
    between = [f"{low} to {high}" for low, high in pairwise(said)]
    names = (f"below {said[0]}", *between, f"from {said[-1]}") if said else ("all",)
    ours, others = (np.searchsorted(edges, targets, side="right").astype(np.int64) for targets in (train, test))
    return Strata(ours, others, names)


def by_rarest(train: np.ndarray, test: np.ndarray, names: tuple[str, ...]) -> Strata:
    """The rarest label of each example among the training examples; of equally rare ones the first.

    Examples without a label are a stratum of their own, the last, where there are any.
    """
    order = np.argsort(train.sum(0, dtype=np.float64), kind="stable")
    ours, others = (
        np.where(split.any(1), order[(split[:, order] > 0).argmax(1)], len(names)) for split in (train, test)
    )
    bare = len(names) in ours or len(names) in others
    return Strata(ours, others, (*names, NONE) if bare else names)
