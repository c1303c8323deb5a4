"""FedBN: Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", arXiv 2102.07623, Algorithm 1. It is FedAvg of all layers except the BatchNorm layers. Their parameters
and statistics stay at the clients.
"""

from typing import ClassVar, Literal

from fedray.algorithms.fedavg import FedAvg
from fedray.core.settings import section, setting


@section
class FedBN(FedAvg):
    """FedAvg with BatchNorm layers that stay at the clients (Li et al. 2021)."""

    name: ClassVar[str] = "fedbn"

    norms: Literal["local"] = setting("local", "Always local.")
