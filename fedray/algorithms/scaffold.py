"""SCAFFOLD: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning", arXiv 1910.06378, Algorithm 1.

    client i:   y <- x;  K times:   y <- y - lr * (g_i(y) - c_i + c)
                c_i+ = g_i(x), on the whole shard                     (option I)
                c_i+ = c_i - c + (x - y) / (K lr)                     (option II)
    server:     x <- x + server_lr * mean_S (y - x),    c <- c + |S|/N * mean_S (c_i+ - c_i)

c and every c_i start at 0. lr is the round's. Means weigh clients as `weighting` says. |S|/N is the cohort's share of
all weights, which keeps c the mean of all c_i. The paper has no local momentum. With it K is the number of plain steps
that go as far (effective_steps.py), because the correction passes through the momentum too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fedray.algorithms.effective_steps import effective_steps
from fedray.algorithms.fedavg import Both, FedAvg, Steps, Tensors, averaged_norms, mean_weighting
from fedray.core.settings import section, setting
from fedray.core.updates import Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.training.client import Client


@section
class Scaffold(FedAvg):
    """FedAvg with control variates against client drift (Karimireddy et al. 2020)."""

    name: ClassVar[str] = "scaffold"
    needs_sgd: ClassVar[bool] = True

    option: Literal["I", "II"] = setting(
        "II", "Rule for a client's new control variate: I takes a pass over its shard, II uses its local steps."
    )
    weighting: Literal["num_examples", "uniform"] = mean_weighting()
    norms: Literal["averaged"] = averaged_norms()

    def init(self, params: np.ndarray, buffers: np.ndarray) -> Vectors:
        return {**super().init(params, buffers), "c": np.zeros_like(params)}

    def broadcast(self, state: Vectors, t: int) -> Vectors:
        return {**super().broadcast(state, t), "c": state["c"]}

    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors:
        return {"c_i": params.new_zeros(params.shape)}

    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        return grad - memory["c_i"] + message["c"]

    @property
    def unfusable(self) -> str:
        if self.option == "I":
            return "whose option I needs one client at a time"
        return "" if self.fusable and not self.has_own_gradient else super().unfusable

    def local_round(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Both:
        update, renewed = super().local_round(client, message, memory, lr)
        if self.option == "I":
            renewed = {"c_i": client.gradient(message)}
            update["c"] = renewed["c_i"] - memory["c_i"]
        return update, renewed

    def finish(self, start: Tensor, end: Tensor, steps: Steps, lr: float, message: Tensors, memory: Tensors) -> Both:
        c_i = memory["c_i"] - message["c"] + (start - end) / (effective_steps(steps, self.momentum) * lr)
        return {"params": end - start, "c": c_i - memory["c_i"]}, {"c_i": c_i}

    def server_update(self, state: Vectors, mean: Vectors, participation: float) -> Vectors:
        c = state["c"] + np.float32(participation) * mean["c"]
        return {**super().server_update(state, mean, participation), "c": c}
