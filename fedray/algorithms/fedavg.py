"""FedAvg: McMahan, Moore, Ramage, Hampson, y Arcas 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", arXiv 1602.05629, Algorithm 1.

    client k:   w_k  <- w_t, then for each local batch b:   w_k <- w_k - lr * grad l(w_k; b)
    server:     w_t+1 = w_t + server_lr * sum_k (n_k / n) (w_k - w_t)

The paper's server_lr is 1. The settings of a client's steps are in local_training.py.

Every other algorithm is FedAvg with some of the hooks below replaced. Hooks are pure. On clients, tensors are [..., P]
and per-client scalars [..., 1]. A hook that reduces over the last dimension alone serves one client (engine = plain)
and many (engine = fused). On the server, vectors are NumPy arrays [P].
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from fedray.algorithms import server_optimizer
from fedray.algorithms.local_training import LocalTraining
from fedray.core.errors import BadInputError
from fedray.core.settings import section, setting
from fedray.core.updates import Updates, Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.training.client import Client

Tensors = dict[str, "Tensor"]
Steps: TypeAlias = "int | Tensor"
Both = tuple[Tensors, Tensors]  # an update and a memory


def mean_weighting() -> Any:
    """The setting `weighting` without "sum", for algorithms that need the mean of the updates."""
    return setting("num_examples", "Weights of the updates: by shard size, or all the same.")


def averaged_norms() -> Any:
    """The setting `norms` without "local", for algorithms whose corrections need every parameter to be shared."""
    return setting("averaged", "Always averaged, since the corrections are for parameters that all clients share.")


@section
class FedAvg(LocalTraining):
    """Federated averaging (McMahan et al. 2017)."""

    name: ClassVar[str] = "fedavg"
    linear: ClassVar[bool] = True  # whether `aggregate` needs only the weighted sum; blocks may then be summed early
    shares_nothing: ClassVar[bool] = False  # whether all that is trained may stay at the clients
    fusable: ClassVar[bool] = True
    """Whether the hooks serve many clients at a time. `init_memory`, `correct` and `finish` must broadcast over leading
    dimensions. An own `loss` must work under torch.func.vmap, which forbids .item() and branches on values. With False
    the algorithm trains in the plain engine only. So does an algorithm with its own `local_round`, `penalty` or
    `personal`."""

    weighting: Literal["num_examples", "uniform", "sum"] = setting(
        "num_examples",
        "Weights of the updates: num_examples is by shard size, as in the paper; uniform is all the same; sum is the "
        "plain sum, the textbook's rule, whose lambda is server_lr.",
    )
    server_lr: float = setting(1.0, "Step of the server along the aggregated update.", gt=0, le=1e6)
    server_optimizer: Literal["sgd", "adagrad", "adam", "yogi"] = setting(
        "sgd", "Optimizer of the server; the aggregated update is its gradient (Reddi et al. 2021, Algorithm 2)."
    )
    server_momentum: float = setting(0.0, "Momentum of the server's sgd.", ge=0, lt=1)
    server_nesterov: bool = setting(False, "Whether that momentum is Nesterov's.")
    server_beta1: float = setting(0.9, "Decay of the first moment of adagrad, adam and yogi.", ge=0, lt=1)
    server_beta2: float = setting(0.99, "Decay of the second moment of adam and yogi.", ge=0, le=1)
    server_tau: float = setting(
        1e-3, "Adaptivity of adagrad, adam and yogi: added to the root of the second moment.", gt=0, le=1e6
    )
    norms: Literal["averaged", "local"] = setting(
        "averaged",
        "BatchNorm layers: averaged like all others, or local, which keeps them and their statistics at each client "
        "(FedBN's rule for any algorithm).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server_momentum and self.server_optimizer != "sgd":
            raise BadInputError(
                f"algorithm.server_momentum = {self.server_momentum:g} is for server_optimizer = sgd; "
                f"that of {self.server_optimizer} is algorithm.server_beta1"
            )
        if self.weighting == "sum" and self.server_optimizer != "sgd":
            raise BadInputError(
                f"algorithm.weighting = sum is for server_optimizer = sgd; {self.server_optimizer} takes the mean"
            )
        if self.server_nesterov and not self.server_momentum:
            raise BadInputError("algorithm.server_nesterov = true needs an algorithm.server_momentum above 0")

    @property
    def remembers(self) -> bool:
        """Whether clients keep a memory between rounds: the algorithm's own, or the personal part of the model."""
        return type(self).init_memory is not FedAvg.init_memory or self.personalises

    @property
    def personalises(self) -> bool:
        """Whether a part of the model stays at each client. There is then no global model to evaluate."""
        return type(self).personal is not FedAvg.personal or self.norms == "local"

    @property
    def has_own_models(self) -> bool:
        """Whether a client uses a model other than the server's. Evaluation then has to go client by client."""
        return self.personalises or type(self).own_model is not FedAvg.own_model

    @property
    def compares(self) -> bool:
        """Whether the loss has a `penalty` on the batch's features."""
        return type(self).penalty is not FedAvg.penalty

    @property
    def unfusable(self) -> str:
        """The reason why the fused engine cannot train this algorithm, as a clause about it; empty if it can."""
        replaced = {
            "local_round": type(self).local_round is not FedAvg.local_round,
            "penalty": self.compares,
            "personal": self.personalises,
        }
        if not self.fusable:
            return "whose class sets fusable = False"
        if self.local_optimizer:
            return f"whose optimizer, torch's {self.optimizer}, needs one client at a time"
        own = next((name for name, own in replaced.items() if own), "")
        return f"whose `{own}` needs one client at a time" if own else ""

    @property
    def corrects(self) -> bool:
        """Whether the algorithm has its own `correct`. Clients then do not descend along the plain gradient."""
        return type(self).correct is not FedAvg.correct

    @property
    def has_own_loss(self) -> bool:
        """Whether the algorithm has its own `loss` in place of the cross-entropy."""
        return type(self).loss is not FedAvg.loss

    # On the server, before the clients.

    def init(self, params: np.ndarray, buffers: np.ndarray) -> Vectors:
        """The server's state before round 1, from the model's params [P] and buffers [B]."""
        return {"params": params, "buffers": buffers, **server_optimizer.init(self, params)}

    def broadcast(self, state: Vectors, t: int) -> Vectors:
        """The message of round t to every client of the cohort. It always has "params" and "buffers"."""
        return {"params": state["params"], "buffers": state["buffers"]}

    # On a client.

    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors:
        """A client's memory before its first round, from the initial params [P] and buffers [B]; FedAvg has none.

        Every later memory has the same names and shapes.
        """
        return {}

    def personal(self, names: Sequence[str], norms: Collection[str]) -> Collection[str]:
        """The names of the parameters and buffers that stay at the client, out of all `names` in the model's order.

        `norms` are the names that belong to BatchNorm layers. In these places the client's own values replace the
        message's at the start of a round. The update is 0 there, and the bytes sent do not count them.
        """
        if self.norms == "averaged":
            return ()
        if not norms:
            raise BadInputError(
                f"algorithm.norms = local: {self.name} keeps BatchNorm layers at the clients, but the model has none "
                "that trains"
            )
        return norms

    def local_round(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Both:
        """One client's round, local SGD and then `finish`: its update and its new memory."""
        end, steps = client.descend(message, self.correct if self.corrects else None)
        update, memory = self.finish(message["params"], end["params"], steps, lr, message, memory)
        return {**update, "buffers": end["buffers"] - message["buffers"]}, memory

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, from the model's output [batch, classes] and targets [batch]."""
        import torch.nn.functional as F  # here, because the driver does without torch

        return F.cross_entropy(output, targets, label_smoothing=self.label_smoothing)

    def references(self, message: Tensors, memory: Tensors) -> dict[str, Tensors]:
        """Further models, each as {"params", "buffers"}, whose features `penalty` compares with the trained model's."""
        return {}

    def penalty(self, features: Tensor, references: Tensors) -> Tensor:
        """The term that is added to a batch's loss, from its features [batch, d] by the model and by each reference.

        Features are the input of the model's last Linear layer. References are in evaluation mode and have no gradient.
        """
        raise NotImplementedError

    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        """The direction to descend, from the gradient of the loss at params; all [..., P]."""
        return grad

    def finish(self, start: Tensor, end: Tensor, steps: Steps, lr: float, message: Tensors, memory: Tensors) -> Both:
        """The update (client minus server) after `steps` steps from start to end, and the client's new memory.

        `steps` is a number in the plain engine and a float32 tensor [C, 1] in the fused one.
        """
        return {"params": end - start}, memory

    def own_model(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Tensors:
        """The model that a client uses, {"params", "buffers"}. The evaluation of each client measures it.

        `message` is that of the state after a round, with the client's personal part in place.
        """
        return {"params": message["params"], "buffers": message["buffers"]}

    # On the server, after the clients.

    def weight(self, num_examples: int) -> float:
        """A client's weight in the sum of the updates."""
        return float(num_examples) if self.weighting == "num_examples" else 1.0

    def aggregate(self, updates: Updates) -> Vectors:
        """The cohort's update: the weighted mean, or the plain sum with weighting = "sum". Overwrites `updates.sum`."""
        if self.weighting != "sum":
            for vector in updates.sum.vectors.values():
                vector /= np.float32(updates.sum.weight)
        return updates.sum.vectors

    def server_update(self, state: Vectors, mean: Vectors, participation: float) -> Vectors:
        """The state after the round, from the aggregated update and the share of clients that took part.

        The share is |S|/N where all clients weigh the same, and otherwise the cohort's share of all weights. Buffers
        are statistics, not parameters, so they move by the aggregated update itself. With weighting = "sum" server_lr
        scales buffers too, because a sum of m differences would carry them m times too far.
        """
        direction, moments = server_optimizer.direction(self, state, mean["params"])
        params = np.float32(self.server_lr) * direction
        params += state["params"]
        scale = self.server_lr if self.weighting == "sum" else 1.0
        return {"params": params, "buffers": state["buffers"] + np.float32(scale) * mean["buffers"], **moments}

    def metrics(self, state: Vectors, updates: Updates) -> dict[str, float]:
        """The algorithm's own metrics of a round, by column name. Rounds that no client answered have none."""
        return {}
