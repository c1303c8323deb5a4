"""An algorithm of a user's own, which no list names."""

from typing import ClassVar

from fedray.algorithms.fedavg import FedAvg
from fedray.settings import section, setting


@section
class Shrinking(FedAvg):
    """FedAvg whose clients' gradients are made shorter by a factor."""

    name: ClassVar[str] = "shrinking"
    factor: float = setting(0.5, "Factor of every gradient.", gt=0, le=1)

    def correct(self, grad, params, message, memory, lr):
        return self.factor * grad
