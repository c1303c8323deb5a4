"""FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in Heterogeneous Networks", arXiv
1812.06127, Algorithm 2: client k minimises F_k(w) + mu/2 |w - w_t|^2, whose gradient is grad F_k(w) + mu (w - w_t).

The reported training loss is F_k alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedray.algorithms.fedavg import FedAvg, Tensors
from fedray.core.settings import section, setting

if TYPE_CHECKING:
    from torch import Tensor


@section
class FedProx(FedAvg):
    """FedAvg with a proximal term at the clients (Li et al. 2020)."""

    name: ClassVar[str] = "fedprox"

    mu: float = setting(0.01, "Strength of the pull towards the round's model; 0 is FedAvg.", ge=0, le=1e6)

    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        return grad + self.mu * (params - message["params"])
