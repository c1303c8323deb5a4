"""Quantity skew: clients that differ in the number of their examples, not in the labels."""

from typing import ClassVar, Literal

import numpy as np

from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.data.partitions.scheme import Shards, check, cut


@section
class QuantitySkew:
    """Deal out shuffled examples in shards of very different sizes.

    Each client first gets `min_size` examples. The rest is dealt in proportion to the clients' weights, rounded by the
    largest remainders (Hamilton's method); of equal remainders the lowest client's goes first. With lognormal a
    client's weight is exp(sigma z), where z is drawn from the standard normal distribution. With power_law (Zipf's law)
    it is r^-exponent, where r = 1, ..., N is the client's rank, and the ranks are shuffled. At sigma or exponent 0 all
    clients hold equally many.
    """

    name: ClassVar[str] = "quantity_skew"
    distribution: Literal["lognormal", "power_law"] = setting(
        "lognormal",
        "Distribution of the sizes: log-normal, or a power law, where the r-th largest goes as r^-exponent.",
    )
    sigma: float = setting(1.0, "Lognormal: standard deviation of the logarithm of a client's weight.", ge=0, le=1000)
    exponent: float = setting(1.0, "Power law: exponent of the weights' fall by rank; 1 is Zipf's law.", ge=0, le=1000)
    min_size: int = setting(1, "Least number of examples that a client holds.", unit="examples", ge=1)

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients * min_size."""
        check(labels, clients, self.min_size)
        rng = generator(seed, "partition")
        order = rng.permutation(len(labels))
        if self.distribution == "lognormal":
            logs = self.sigma * rng.standard_normal(clients)
        else:
            logs = -self.exponent * np.log(rng.permutation(clients) + 1.0)
        sizes = self.min_size + largest_remainders(logs, len(labels) - clients * self.min_size)
        return [np.sort(rows) for rows in cut(order, sizes)]


def largest_remainders(logs: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers, int64 [N], that add up to `total`, in proportion to the weights with logarithms `logs` [N]."""
    weights = np.exp(logs - logs.max())  # at most 1, so nothing overflows
    shares = weights / weights.sum() * total
    whole = np.floor(shares)
    more = total - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:more]] += 1
    return whole.astype(np.int64)
