"""The server optimizer, a setting of every algorithm. The aggregated update delta takes the place of a gradient.

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

from typing import Any

import numpy as np

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
