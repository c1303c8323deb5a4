"""The server's step: the settings that every algorithm has of it, and its optimizer.

The aggregated update delta takes the place of a gradient.

sgd, with momentum: Hsu, Qi, Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", arXiv 1909.06335, section 4.3. v weighs past updates as torch.optim.SGD weighs past gradients:

    v <- beta v + delta;    w <- w + server_lr * v    (Nesterov: w + server_lr * (delta + beta v))

adagrad, adam, yogi: Reddi et al. 2021, "Adaptive Federated Optimization", arXiv 2003.00295, Algorithm 2. v starts at
tau^2, and there is no bias correction:

    m <- beta1 m + (1 - beta1) delta
    v <- v + delta^2                                        (adagrad)
    v <- beta2 v + (1 - beta2) delta^2                      (adam)
    v <- v - (1 - beta2) delta^2 sign(v - delta^2)          (yogi)
    w <- w + server_lr * m / (sqrt(v) + tau)
"""

from typing import Any, ClassVar, Literal

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.settings import section, setting
from fedray.core.updates import Vectors

TINY = np.finfo(np.float32).tiny


def init(settings: Any, params: np.ndarray) -> Vectors:
    """The moments before round 1, each [P] as params; none for plain sgd. `settings` is an algorithm."""
    if settings.server_optimizer == "sgd":
        return {"v": np.zeros_like(params)} if settings.server_momentum else {}
    return {"m": np.zeros_like(params), "v": np.full_like(params, settings.server_tau**2)}


def direction(settings: Any, state: Vectors, delta: np.ndarray) -> tuple[np.ndarray, Vectors]:
    """The step of params before it is multiplied by server_lr, and the new moments, from the aggregated update [P]."""
    if settings.server_optimizer == "sgd":
        beta = np.float32(settings.server_momentum)
        if not beta:
            return delta, {}
        v = beta * state["v"] + delta
        return delta + beta * v if settings.server_nesterov else v, {"v": v}
    beta1, beta2 = np.float32(settings.server_beta1), np.float32(settings.server_beta2)
    m, square, v = beta1 * state["m"] + (1 - beta1) * delta, np.square(delta), state["v"]
    if settings.server_optimizer == "adagrad":
        v = v + square
    elif settings.server_optimizer == "adam":
        v = beta2 * v + (1 - beta2) * square
    else:
        v = v - (1 - beta2) * square * np.sign(v - square)
    tau = np.maximum(np.float32(settings.server_tau), TINY)  # a tau that float32 rounds to 0 would give 0 / 0
    return m / (np.sqrt(v) + tau), {"m": m, "v": v}


def mean_weighting() -> Any:
    """The setting `weighting` without "sum", for algorithms that need the mean of the updates."""
    return setting("num_examples", "Weights of the updates: by shard size, or all the same.")


@section
class ServerStep:
    """The settings of the server's step that all algorithms have."""

    name: ClassVar[str] = ""

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

    def __post_init__(self) -> None:
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
