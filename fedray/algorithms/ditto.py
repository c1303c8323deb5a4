"""Ditto: Li, Hu, Beirami, Smith 2021, "Ditto: Fair and Robust Federated Learning Through Personalization", arXiv
2012.04221, Algorithm 1. FedAvg trains the global model w. Each client of the cohort also trains its own model v_k:

    v_k <- v_k - lr * (grad F_k(v_k) + lam (v_k - w_t))

v_k starts as the initial model. It is trained in the rounds in which the client takes part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedray.algorithms.fedavg import Both, FedAvg, Tensors
from fedray.core.settings import Maybe, section, setting

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.training.client import Client


@section
class Ditto(FedAvg):
    """FedAvg beside personal models that are drawn towards the global one (Li et al. 2021)."""

    name: ClassVar[str] = "ditto"

    lam: float = setting(0.1, "Pull of the personal models towards the global one; 0 is local training.", ge=0, le=1e6)
    personal_epochs: Maybe[int] = setting(
        None, "Epochs of the personal model a round; none: as many as of the global model.", ge=1
    )

    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors:
        return {"params": params, "buffers": buffers}

    def local_round(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Both:
        update, _ = super().local_round(client, message, memory, lr)
        return update, client.descend(memory, self.draw, epochs=self.personal_epochs)[0]

    def draw(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        """The direction that the personal model descends: the gradient plus the pull towards w_t."""
        return grad + self.lam * (params - message["params"])

    def own_model(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Tensors:
        return memory
