"""How far local steps go: |a|_1 of FedNova (Wang et al. 2020, arXiv 2007.07481, section 4).

Local SGD from x ends at x - lr * sum_k a_k g_k, where a_k says how often the gradient of step k was applied. The sum of
the a_k is tau for plain SGD, (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho) with momentum rho, and
(1 - (1 - lr mu)^tau) / (lr mu) with a proximal term mu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def effective_steps(steps: int | torch.Tensor, momentum: float, pull: float = 0.0) -> float | torch.Tensor:
    """The sum of the a_k of `steps` steps, a number or a tensor of numbers, with `pull` = lr * mu.

    It is the distance, in units of lr, that the recurrence of SGD goes when all gradients are 1.
    """
    distance, speed = [0.0], 0.0
    for _ in range(steps if isinstance(steps, int) else int(steps.max())):
        speed = momentum * speed + 1.0 - pull * distance[-1]
        distance.append(distance[-1] + speed)
    return distance[steps] if isinstance(steps, int) else steps.new_tensor(distance)[steps.long()]
