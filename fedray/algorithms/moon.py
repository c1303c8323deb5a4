"""MOON: Li, He, Song 2021, "Model-Contrastive Federated Learning", arXiv 2103.16257, Algorithm 1.

    loss = cross-entropy + mu * l_con,    l_con = -log( e^near / (e^near + e^far) )
    near = cos(z, z_glob) / tau,          far = cos(z, z_prev) / tau

z are an image's features by the local model, z_glob by the round's global model, and z_prev by the model that the
client ended its last round with. Before a client's first round z_prev comes from the initial model. Features are the
input of the model's last Linear layer. The paper's models have a projection head in front of it, which is
model.projection = 256. z_glob and z_prev come from models in evaluation mode and have no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedray.algorithms.fedavg import Both, FedAvg, Tensors
from fedray.core.settings import section, setting

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.training.client import Client


@section
class Moon(FedAvg):
    """FedAvg with a contrast between the clients' features and the global model's (Li et al. 2021)."""

    name: ClassVar[str] = "moon"

    mu: float = setting(1.0, "Weight of the contrastive loss; 0 is FedAvg.", ge=0, le=1e6)
    tau: float = setting(0.5, "Temperature of the contrastive loss.", gt=0, le=1e6)

    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors:
        return {"params": params, "buffers": buffers}

    def references(self, message: Tensors, memory: Tensors) -> dict[str, Tensors]:
        return {"glob": message, "prev": memory}

    def penalty(self, features: Tensor, references: Tensors) -> Tensor:
        import torch.nn.functional as F  # here, because the driver does without torch

        near = F.cosine_similarity(features, references["glob"], dim=-1) / self.tau
        far = F.cosine_similarity(features, references["prev"], dim=-1) / self.tau
        return self.mu * F.softplus(far - near).mean()

    def local_round(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Both:
        update, _ = super().local_round(client, message, memory, lr)
        return update, {name: message[name] + update[name] for name in ("params", "buffers")}
