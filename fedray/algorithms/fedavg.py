"""FedAvg: McMahan, Moore, Ramage, Hampson, y Arcas 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", arXiv 1602.05629, Algorithm 1.

    client k:   w_k  <- w_t, then for each local batch b:   w_k <- w_k - lr * grad l(w_k; b)
    server:     w_t+1 = w_t + server_lr * sum_k (n_k / n) (w_k - w_t)

The paper's server_lr is 1. Every other algorithm is FedAvg with some of its hooks replaced: those below, and those that
are neutral here (hooks.py). The settings of a client's steps are in local_training.py, those of the server's step in
server_optimizer.py, and what an algorithm can do is in capabilities.py.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedray.algorithms import server_optimizer
from fedray.algorithms.capabilities import Capabilities, refuse_former_hooks
from fedray.algorithms.local_training import LocalTraining
from fedray.algorithms.norms import OwnNorms, averaged_norms
from fedray.algorithms.server_optimizer import ServerStep, mean_weighting
from fedray.core.algorithm import Both, Steps, Tensors
from fedray.core.own_classes import see
from fedray.core.settings import section
from fedray.core.updates import Vectors

__all__ = ["Both", "FedAvg", "Steps", "Tensors", "averaged_norms", "mean_weighting"]


@section
class FedAvg(OwnNorms, ServerStep, LocalTraining, Capabilities):
    """Federated averaging (McMahan et al. 2017)."""

    name: ClassVar[str] = "fedavg"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        see(cls)

    def __post_init__(self) -> None:
        refuse_former_hooks(type(self))
        LocalTraining.__post_init__(self)
        ServerStep.__post_init__(self)

    def init(self, params: np.ndarray, buffers: np.ndarray) -> Vectors:
        """The server's state before round 1, from the model's params [P] and buffers [B]."""
        return {"params": params, "buffers": buffers, **server_optimizer.init(self, params)}

    def broadcast(self, state: Vectors, t: int) -> Vectors:
        """The message of round t to every client of the cohort. It always has "params" and "buffers"."""
        return {"params": state["params"], "buffers": state["buffers"]}

    def weight(self, num_examples: int) -> float:
        """A client's weight in the sum of the updates: p_k before it is divided by the denominator."""
        return float(num_examples) if self.weighting == "num_examples" else 1.0

    def denominator(self, weights: float) -> float:
        """What the weighted sum is divided by, from the sum of the cohort's weights; 1 for weighting = "sum"."""
        return 1.0 if self.weighting == "sum" else weights

    def delta(self, mean: Vectors) -> np.ndarray:
        """What moves the server's params [P], from the aggregated update; before the server's step."""
        return mean["params"]

    def server_update(self, state: Vectors, mean: Vectors, participation: float) -> Vectors:
        """The state after the round, from the aggregated update and the share of clients that took part.

        The share is |S|/N where all clients weigh the same, and otherwise the cohort's share of all weights. Buffers
        are statistics, not parameters, so they move by the aggregated update itself. With weighting = "sum" server_lr
        scales buffers too, because a sum of m differences would carry them m times too far.
        """
        direction, moments = server_optimizer.direction(self, state, self.delta(mean))
        step = direction if self.server_lr == 1 else np.float32(self.server_lr) * direction
        params = np.add(step, state["params"], out=None if step is direction else step)
        scale = self.server_lr if self.weighting == "sum" else 1.0
        return {"params": params, "buffers": state["buffers"] + np.float32(scale) * mean["buffers"], **moments}
