"""FedAdagrad, FedAdam, FedYogi: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan 2021, "Adaptive
Federated Optimization", arXiv 2003.00295, Algorithm 2. They are FedAvg with an adaptive server optimizer, whose
equations are in server_optimizer.py. The defaults of beta1, beta2 and tau are the paper's: beta1 = 0.9 (0 for Adagrad),
beta2 = 0.99, tau = 1e-3.
"""

from typing import ClassVar, Literal

from fedray.algorithms.fedavg import FedAvg
from fedray.core.settings import section, setting


@section
class FedAdagrad(FedAvg):
    """FedAvg with Adagrad on the server (Reddi et al. 2021)."""

    name: ClassVar[str] = "fedadagrad"

    server_optimizer: Literal["adagrad"] = setting("adagrad", "Always adagrad.")
    server_lr: float = setting(0.1, "Step of the server along the aggregated update.", gt=0, le=1e6)
    server_beta1: float = setting(0.0, "Decay of the first moment of adagrad, adam and yogi.", ge=0, lt=1)


@section
class FedAdam(FedAvg):
    """FedAvg with Adam on the server (Reddi et al. 2021)."""

    name: ClassVar[str] = "fedadam"

    server_optimizer: Literal["adam"] = setting("adam", "Always adam.")
    server_lr: float = setting(0.01, "Step of the server along the aggregated update.", gt=0, le=1e6)


@section
class FedYogi(FedAvg):
    """FedAvg with Yogi on the server (Reddi et al. 2021)."""

    name: ClassVar[str] = "fedyogi"

    server_optimizer: Literal["yogi"] = setting("yogi", "Always yogi.")
    server_lr: float = setting(0.01, "Step of the server along the aggregated update.", gt=0, le=1e6)
