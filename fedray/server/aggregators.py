"""Aggregators: what is made of a cohort's updates. Each is a section of the settings, [aggregator].

An aggregator that is linear needs only the weighted sum of the updates, and says how they are summed. Actors then sum
their own clients' updates, and the driver sums those sums. Any other gets every update by itself.
"""

from typing import ClassVar

import numpy as np

from fedray.core.own_classes import see
from fedray.core.settings import section
from fedray.core.updates import Sum, Updates, Vectors, WeightedSum


@section
class Aggregator:
    """What all aggregators have."""

    name: ClassVar[str] = ""
    linear: ClassVar[bool] = False
    """Whether `aggregate` needs only `updates.sum`. Otherwise it needs `updates.each`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        see(cls)

    def zero(self) -> Sum:
        """A new sum without updates, for the linear."""
        raise NotImplementedError(f"{self.name} sums nothing")

    def aggregate(self, updates: Updates, denominator: float | None = None) -> Vectors:
        """The cohort's update, in new vectors. `updates` has at least one, and is not changed.

        A weighted sum is divided by the denominator; None: by the sum of the weights.
        """
        raise NotImplementedError(f"{self.name} makes no aggregate")


@section
class Mean(Aggregator):
    """The weighted mean, FedAvg's rule (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1)."""

    name: ClassVar[str] = "mean"
    linear: ClassVar[bool] = True

    def zero(self) -> WeightedSum:
        return WeightedSum()

    def aggregate(self, updates: Updates, denominator: float | None = None) -> Vectors:
        total = np.float32(updates.sum.weight if denominator is None else denominator)
        return {name: vector / total for name, vector in updates.sum.vectors.items()}


@section
class Each(Aggregator):
    """No aggregation: every update by itself, for a protocol that combines them elsewhere. It is no setting."""

    name: ClassVar[str] = "each"


AGGREGATORS: dict[str, type[Aggregator]] = {Mean.name: Mean}
"""Those that the settings can name."""
