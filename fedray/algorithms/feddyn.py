"""FedDyn: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama 2021, "Federated Learning Based on Dynamic
Regularization", arXiv 2111.04263, Algorithm 1.

    client k:   w_k minimises F_k(w) - <g_k, w> + alpha/2 |w - w_t|^2, whose gradient is
                grad F_k(w) - g_k + alpha (w - w_t); then g_k <- g_k - alpha (w_k - w_t)
    server:     h <- h - alpha * |S|/N * mean_S (w_k - w_t),    w_t+1 = mean_S w_k - h / alpha

g_k and h start at 0. The local steps do the minimising. Means weigh clients as `weighting` says. |S|/N is the cohort's
share of all weights, which keeps h the mean of all g_k. alpha = 0 drops the regulariser and h, and gives FedAvg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fedray.algorithms.fedavg import Both, FedAvg, Steps, Tensors, averaged_norms, mean_weighting
from fedray.core.settings import section, setting
from fedray.core.updates import Vectors

if TYPE_CHECKING:
    from torch import Tensor


@section
class FedDyn(FedAvg):
    """FedAvg with a dynamic regulariser that aligns the optima of clients and server (Acar et al. 2021)."""

    name: ClassVar[str] = "feddyn"

    alpha: float = setting(0.01, "Strength of the regulariser; 0 is FedAvg.", ge=0, le=1e6)
    weighting: Literal["num_examples", "uniform"] = mean_weighting()
    norms: Literal["averaged"] = averaged_norms()

    def init(self, params: np.ndarray, buffers: np.ndarray) -> Vectors:
        return {**super().init(params, buffers), "h": np.zeros_like(params)}

    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors:
        return {"g_k": params.new_zeros(params.shape)}

    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        return grad - memory["g_k"] + self.alpha * (params - message["params"])

    def finish(self, start: Tensor, end: Tensor, steps: Steps, lr: float, message: Tensors, memory: Tensors) -> Both:
        return {"params": end - start}, {"g_k": memory["g_k"] - self.alpha * (end - start)}

    def server_update(self, state: Vectors, mean: Vectors, participation: float) -> Vectors:
        alpha = np.float32(self.alpha)
        h = state["h"] - alpha * np.float32(participation) * mean["params"]
        moved = mean["params"] - h / alpha if alpha else mean["params"]
        return {**super().server_update(state, {**mean, "params": moved}, participation), "h": h}
