"""FedAvg with local fine-tuning: Yu, Bagdasaryan, Shmatikov 2020, "Salvaging Federated Learning by Local Adaptation",
arXiv 2002.04758, section 4; Cheng, Chadha, Duchi 2021, "Fine-tuning is Fine in Federated Learning", arXiv 2108.07313.

The server's model is FedAvg's. A client trains it on its own shard before it is evaluated there, with the local
settings of the round. The fine-tuned model is neither sent nor kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedray.algorithms.fedavg import FedAvg, Tensors
from fedray.core.settings import section, setting

if TYPE_CHECKING:
    from fedray.training.client import Client


@section
class FineTune(FedAvg):
    """FedAvg whose clients fine-tune the model before they use it."""

    name: ClassVar[str] = "finetune"

    fine_tune_epochs: int = setting(
        1, "Epochs of a client on its shard before it is evaluated; 0 is FedAvg.", unit="passes over the shard", ge=0
    )

    def own_model(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Tensors:
        if not self.fine_tune_epochs:
            return super().own_model(client, message, memory, lr)
        return client.descend(message, None, epochs=self.fine_tune_epochs)[0]
