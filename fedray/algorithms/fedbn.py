"""FedBN: Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", arXiv 2102.07623, Algorithm 1: FedAvg of everything but the BatchNorm layers, whose parameters and
statistics stay at the clients.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from fedray.algorithms.fedavg import FedAvg
from fedray.errors import BadInputError
from fedray.settings import section


@section
class FedBN(FedAvg):
    """FedAvg with BatchNorm layers that stay at the clients (Li et al. 2021)."""

    name: ClassVar[str] = "fedbn"

    def personal(self, names: Sequence[str], norms: Collection[str]) -> Collection[str]:
        if not norms:
            raise BadInputError("algorithm.name = fedbn keeps BatchNorm layers at the clients, but the model has none")
        return norms
