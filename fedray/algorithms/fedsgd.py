"""FedSGD: McMahan et al. 2017, arXiv 1602.05629, section 2: FedAvg with E = 1 and B = the whole shard.

    client k:   g_k = grad F_k(w_t)        server:   w_t+1 = w_t - server_lr * lr * sum_k (n_k / n) g_k

A round of all clients is one step of gradient descent on the union of their shards.
"""

from typing import Annotated, ClassVar, Literal

from fedray.algorithms.fedavg import FedAvg
from fedray.core.settings import AsLowerCase, AsNumber, Maybe, section, setting


@section
class FedSGD(FedAvg):
    """Federated SGD (McMahan et al. 2017): one step on the whole shard."""

    name: ClassVar[str] = "fedsgd"

    optimizer: Annotated[Literal["sgd"], AsLowerCase] = setting("sgd", "Always sgd.")
    optimizer_options: Literal[""] = setting("", "Always empty.")
    epochs: Annotated[Literal[1], AsNumber] = setting(1, "Always 1.")
    epochs_min: Maybe[None] = setting(None, "Always none.")
    steps: Maybe[None] = setting(None, "Always none.")
    steps_min: Maybe[None] = setting(None, "Always none.")
    batch_size: Annotated[Literal[0], AsNumber] = setting(0, "Always 0, the whole shard.")
