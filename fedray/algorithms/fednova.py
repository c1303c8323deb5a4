"""FedNova: Wang, Liu, Liang, Joshi, Poor 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", arXiv 2007.07481, section 4. Clients that make more steps do not count for more:

    client k:   d_k = (w_t - w_k) / (lr |a_k|_1)
    server:     w_t+1 = w_t - server_lr * tau_eff * sum_k p_k lr d_k,      p_k = n_k / n

|a_k|_1 is the number of effective steps (effective_steps.py). It is tau_k for plain local SGD, more with momentum, and
less with a proximal term mu. tau_eff is the mean of the |a_k|_1 without mu, so mu slows clients down. It does so in the
authors' code too (github.com/JYWa/FedNova), where tau_eff is the mean of the tau_k for mu > 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fedray.algorithms.effective_steps import effective_steps
from fedray.algorithms.fedavg import Both, FedAvg, Steps, Tensors, mean_weighting
from fedray.core.settings import section, setting
from fedray.core.updates import Updates, Vectors

if TYPE_CHECKING:
    from torch import Tensor


@section
class FedNova(FedAvg):
    """FedAvg of normalised updates, for unequal local steps (Wang et al. 2020)."""

    name: ClassVar[str] = "fednova"
    needs_sgd: ClassVar[bool] = True

    mu: float = setting(0.0, "Strength of the proximal term of the clients; 0 for none.", ge=0, le=1e6)
    weighting: Literal["num_examples", "uniform"] = mean_weighting()

    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        return grad + self.mu * (params - message["params"]) if self.mu else grad

    def finish(self, start: Tensor, end: Tensor, steps: Steps, lr: float, message: Tensors, memory: Tensors) -> Both:
        far = effective_steps(steps, self.momentum)
        slowed = effective_steps(steps, self.momentum, lr * self.mu) if self.mu else far
        return {"params": (end - start) / slowed, "tau": far + end.new_zeros(*end.shape[:-1], 1)}, memory

    def delta(self, mean: Vectors) -> np.ndarray:
        """tau_eff times the mean of the normalised updates."""
        return mean["params"] * mean["tau"]

    def metrics(self, state: Vectors, mean: Vectors, updates: Updates) -> dict[str, float]:
        """tau_eff, in steps."""
        return {"tau_eff": float(mean["tau"][0])}
