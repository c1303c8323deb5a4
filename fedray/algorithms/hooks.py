"""The hooks of an algorithm that FedAvg leaves neutral. An algorithm fills those that its paper changes.

Hooks are pure. On clients, tensors are [..., P] and per-client scalars [..., 1]. A hook that reduces over the last
dimension alone serves one client (engine = plain) and many (engine = fused). On the server, vectors are NumPy arrays
[P].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fedray.core.algorithm import Both, Gradient, Steps, Tensors
from fedray.core.updates import Updates, Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.training.client import Client


class Hooks:
    """What happens at a client, and the model and the metrics of a round, as FedAvg has them."""

    name: ClassVar[str] = ""

    if TYPE_CHECKING:
        label_smoothing: float

        @property
        def corrects(self) -> bool: ...

    def receive(self, message: Tensors, inputs: Sequence[Tensors]) -> Tensors:
        """The message, with a task's inputs in it: vectors of other clients, as take(handle, where="actors") left them.

        Only a protocol whose tasks name inputs needs it.
        """
        raise NotImplementedError(f"{self.name} has no `receive`, so that its tasks can name no inputs")

    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors:
        """A client's memory before its first round, from the initial params [P] and buffers [B]; FedAvg has none.

        Every later memory has the same names and shapes.
        """
        return {}

    def local_round(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Both:
        """One client's round, local SGD and then `finish`: its update and its new memory."""
        end, steps = client.descend(message, self.correct if self.corrects else None)
        update, memory = self.finish(message["params"], end["params"], steps, lr, message, memory)
        return {**update, "buffers": end["buffers"] - message["buffers"]}, memory

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, from the model's output [batch, classes] and targets [batch]."""
        import torch.nn.functional as F  # here, because the driver does without torch

        return F.cross_entropy(output, targets, label_smoothing=self.label_smoothing)

    def references(self, message: Tensors, memory: Tensors) -> dict[str, Tensors]:
        """Further models, each as {"params", "buffers"}, whose features `penalty` compares with the trained model's."""
        return {}

    def penalty(self, features: Tensor, references: Tensors) -> Tensor:
        """The term that is added to a batch's loss, from its features [batch, d] by the model and by each reference.

        Features are the input of the model's last Linear layer. References are in evaluation mode and have no gradient.
        """
        raise NotImplementedError

    def local_gradient(
        self, gradient: Gradient, params: Tensor, message: Tensors, memory: Tensors, lr: float
    ) -> Tensor:
        """The gradient [P] of a local step at params [P], which is then clipped, corrected and descended.

        `gradient(at)` is that of the step's batch at any params [P], on the same images and dropout masks. The first
        call of a step is the one whose loss is reported, and whose BatchNorm statistics stay.
        """
        return gradient(params)

    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor:
        """The direction to descend, from the gradient of the loss at params; all [..., P]."""
        return grad

    def finish(self, start: Tensor, end: Tensor, steps: Steps, lr: float, message: Tensors, memory: Tensors) -> Both:
        """The update (client minus server) after `steps` steps from start to end, and the client's new memory.

        `steps` is a number in the plain engine and a float32 tensor [C, 1] in the fused one.
        """
        return {"params": end - start}, memory

    def own_model(self, client: Client, message: Tensors, memory: Tensors, lr: float) -> Tensors:
        """The model that a client uses, {"params", "buffers"}. The evaluation of each client measures it.

        `message` is that of the state after a round, with the client's personal part in place.
        """
        return {"params": message["params"], "buffers": message["buffers"]}

    def global_model(self, state: Vectors) -> Vectors:
        """The run's model, {"params": [P], "buffers": [B]}, from the server's state.

        It is evaluated on the test and validation sets, and by clients, where it stands in the message. The best and
        the final model that are saved are it, too.
        """
        return {"params": state["params"], "buffers": state["buffers"]}

    def metrics(self, state: Vectors, mean: Vectors, updates: Updates) -> dict[str, float]:
        """The algorithm's own metrics of a round, by column name. Rounds that no client answered have none.

        `state` is the server's after the round, `mean` the aggregated update. `updates` has its sum's weight alone.
        """
        return {}
