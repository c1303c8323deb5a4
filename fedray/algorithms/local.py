"""Local training only: each client trains its own model on its own shard, and nothing is sent or received.

It is the baseline that every personalised algorithm has to beat. The server's model stays as it was initialised and is
not evaluated.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from fedray.algorithms.fedavg import FedAvg
from fedray.core.settings import section


@section
class Local(FedAvg):
    """Every client trains alone."""

    name: ClassVar[str] = "local"
    shares_nothing: ClassVar[bool] = True

    def personal(self, names: Sequence[str], norms: Collection[str]) -> Collection[str]:
        return names
