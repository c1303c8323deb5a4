"""FedAvg: McMahan, Moore, Ramage, Hampson, y Arcas 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", arXiv 1602.05629, Algorithm 1.

    client k:   w_k  <- w_t, then for each local batch b:   w_k <- w_k - lr * grad l(w_k; b)
    server:     w_t+1 = w_t + server_lr * sum_k (n_k / n) (w_k - w_t)

The paper's server_lr is 1. Every other algorithm is FedAvg with some of the hooks below replaced. Hooks are pure. On
clients tensors are [..., P] and per-client scalars [..., 1], so that a hook written once, with reductions over the last
dimension, serves one client (engine = plain) and many (fused); on the server they are NumPy vectors [P].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fedray.settings import Maybe, section, setting
from fedray.updates import Updates, Vectors

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


@section
class FedAvg:
    """Federated averaging (McMahan et al. 2017)."""

    name: ClassVar[str] = "fedavg"
    linear: ClassVar[bool] = True  # whether `aggregate` needs only the weighted sum, so that blocks may be summed early
    fusable: ClassVar[bool] = True
    """Whether the hooks serve many clients at a time: `init_memory`, `correct` and `finish` by broadcasting over
    leading dimensions, a `loss` of its own under torch.func.vmap, which excludes .item() and branches on values. An
    algorithm that says False trains in the plain engine only."""

    lr: float = setting(0.05, "Learning rate of the clients' SGD in the first round.", gt=0, le=1e6)
    lr_schedule: Literal["constant", "cosine", "step", "exponential"] = setting(
        "constant",
        "How lr changes over the rounds: cosine falls towards 0 at the last round, step multiplies by lr_decay every "
        "lr_decay_every rounds, exponential does so every round.",
    )
    lr_decay: float = setting(0.99, "Factor of the step and exponential schedules.", gt=0, le=1)
    lr_decay_every: int = setting(10, "Length of a stage of the step schedule.", unit="rounds", ge=1)
    epochs: int = setting(1, "Local epochs a round, E in the paper.", unit="passes over the shard", ge=1)
    steps: Maybe[int] = setting(None, "Local SGD steps a round, instead of epochs.", unit="steps", ge=1)
    batch_size: int = setting(32, "Local batch size, B in the paper; 0 is the whole shard.", unit="images", ge=0)
    drop_last: bool = setting(False, "Drop an epoch's last batch where it is smaller than batch_size.")
    momentum: float = setting(0.0, "Momentum of the clients' SGD, restarted each round.", ge=0, lt=1)
    weight_decay: float = setting(0.0, "L2 penalty of the clients' SGD.", ge=0, le=1e6)
    weighting: Literal["num_examples", "uniform", "sum"] = setting(
        "num_examples",
        "Weights of the updates: by shard size (the paper), all the same, or their plain sum (the textbook's rule, "
        "where server_lr is its lambda).",
    )
    server_lr: float = setting(1.0, "Step of the server along the aggregated update.", gt=0, le=1e6)

    @property
    def remembers(self) -> bool:
        """Whether clients keep a memory between rounds: those of an algorithm with an `init_memory` of its own."""
        return type(self).init_memory is not FedAvg.init_memory

    @property
    def corrects(self) -> bool:
        """Whether clients descend along something else than the gradient: those with a `correct` of its own."""
        return type(self).correct is not FedAvg.correct

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is another than the cross-entropy."""
        return type(self).loss is not FedAvg.loss

    def learning_rate(self, t: int, rounds: int) -> float:
        """The clients' learning rate in round t of 1..rounds."""
        if self.lr_schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * (t - 1) / rounds)) / 2
        if self.lr_schedule == "step":
            return float(self.lr * self.lr_decay ** ((t - 1) // self.lr_decay_every))
        if self.lr_schedule == "exponential":
            return float(self.lr * self.lr_decay ** (t - 1))
        return self.lr

    # On the server, before the clients.

    def init(self, params: np.ndarray, buffers: np.ndarray) -> Vectors:
        """The server's state before round 1, from the model's params [P] and buffers [B]."""
        return {"params": params, "buffers": buffers}

    def broadcast(self, state: Vectors, t: int) -> Vectors:
        """The message of round t, which every client of the cohort gets; "params" and "buffers" are always in it."""
        return {"params": state["params"], "buffers": state["buffers"]}

    # On a client.

    def init_memory(self, params: torch.Tensor) -> Tensors:
        """What a client remembers before its first round, given vectors like params [P]; nothing for FedAvg."""
        return {}

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch, from the model's output [batch, classes] and targets [batch]."""
        import torch.nn.functional as F  # here, because the driver does without torch

        return F.cross_entropy(output, targets)

    def correct(
        self, grad: torch.Tensor, params: torch.Tensor, message: Tensors, memory: Tensors, lr: float
    ) -> torch.Tensor:
        """The direction to descend, given the gradient of the loss at params; all [..., P]."""
        return grad

    def finish(
        self,
        start: torch.Tensor,
        end: torch.Tensor,
        steps: int | torch.Tensor,
        lr: float,
        message: Tensors,
        memory: Tensors,
    ) -> tuple[Tensors, Tensors]:
        """The update (client minus server) after `steps` steps from start to end, and the client's new memory.

        `steps` is a number in the plain engine and a float32 tensor [C, 1] in the fused one.
        """
        return {"params": end - start}, memory

    # On the server, after the clients.

    def weight(self, num_examples: int) -> float:
        """A client's weight in the sum of the updates."""
        return float(num_examples) if self.weighting == "num_examples" else 1.0

    def aggregate(self, updates: Updates) -> Vectors:
        """The cohort's update: its weighted mean, or, with weighting = "sum", the plain sum. Uses the sum up."""
        if self.weighting != "sum":
            for vector in updates.sum.vectors.values():
                vector /= np.float32(updates.sum.weight)
        return updates.sum.vectors

    def server_update(self, state: Vectors, mean: Vectors, participation: float) -> Vectors:
        """The state after the round, given the aggregated update and the share |S|/N of clients that took part.

        Buffers are statistics, not parameters: they move by the aggregated update itself. Only the textbook's `sum`
        scales them too, since a sum of m differences would carry them m times too far.
        """
        step = np.float32(self.server_lr) * mean["params"]
        step += state["params"]
        scale = self.server_lr if self.weighting == "sum" else 1.0
        return {"params": step, "buffers": state["buffers"] + np.float32(scale) * mean["buffers"]}

    def metrics(self, state: Vectors, updates: Updates) -> dict[str, float]:
        """What only this algorithm reports of a round, for the metrics table."""
        return {}
