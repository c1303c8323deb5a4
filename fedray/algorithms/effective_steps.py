"""The number of effective local steps: |a|_1 of FedNova (Wang et al. 2020, arXiv 2007.07481, section 4).

Local SGD from x ends at x - lr * sum_k a_k g_k. a_k counts how often the gradient of step k was applied. The sum of the
a_k over tau steps is

    tau                                                            plain SGD
    (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)              momentum rho
    (1 - (1 - lr mu)^tau) / (lr mu)                                proximal term mu
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def effective_steps(steps: int | torch.Tensor, momentum: float, pull: float = 0.0) -> float | torch.Tensor:
    """The sum of the a_k of `steps` steps, where `pull` is lr * mu.

    `steps` is a number, or a tensor with a number for each client. The sum is of the same kind. It is the distance, in
    units of lr, that SGD goes when all gradients are 1. Of plain SGD that is the number of steps itself, so that nobody
    waits for a device.
    """
    if not momentum and not pull:
        return float(steps) if isinstance(steps, int) else steps
    distance, speed = [0.0], 0.0
    for _ in range(steps if isinstance(steps, int) else int(steps.max())):
        speed = momentum * speed + 1.0 - pull * distance[-1]
        distance.append(distance[-1] + speed)
    return distance[steps] if isinstance(steps, int) else steps.new_tensor(distance)[steps.long()]
