"""FedAvgM: Hsu, Qi, Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", arXiv 1909.06335. It is FedAvg with momentum on the server; server_optimizer.py has the equation.
"""

from typing import ClassVar, Literal

from fedray.algorithms.fedavg import FedAvg
from fedray.core.settings import section, setting


@section
class FedAvgM(FedAvg):
    """FedAvg with server momentum (Hsu et al. 2019)."""

    name: ClassVar[str] = "fedavgm"

    server_optimizer: Literal["sgd"] = setting("sgd", "Always sgd.")
    server_momentum: float = setting(0.9, "Momentum of the server's sgd.", ge=0, lt=1)
