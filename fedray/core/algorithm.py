"""The protocols between the server, the clients and an algorithm: what each may ask of the other.

fedray.algorithms.fedavg.FedAvg is the algorithm that all others inherit, and docs/algorithms.md explains its hooks.
Vectors on the server are NumPy arrays. On clients they are tensors [..., P], per-client scalars [..., 1].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from fedray.core.updates import Updates, Vectors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

Tensors: TypeAlias = "dict[str, Tensor]"
Steps: TypeAlias = "int | Tensor"
Gradient: TypeAlias = "Callable[[Tensor], Tensor]"  # of a batch's loss, at any params
Both: TypeAlias = "tuple[Tensors, Tensors]"  # an update and a memory


class Algorithm(Protocol):
    """An algorithm: its settings, what it can do, and its hooks. It is frozen, hashable, and pickles."""

    # What it can do (algorithms/capabilities.py).

    @property
    def remembers(self) -> bool: ...
    @property
    def keeps_a_memory(self) -> bool: ...
    @property
    def personalises(self) -> bool: ...
    @property
    def has_own_models(self) -> bool: ...
    @property
    def compares(self) -> bool: ...
    @property
    def corrects(self) -> bool: ...
    @property
    def has_own_loss(self) -> bool: ...
    @property
    def has_own_gradient(self) -> bool: ...
    @property
    def unfusable(self) -> str: ...
    @property
    def shares_nothing(self) -> bool: ...

    # The settings of a client's steps (algorithms/local_training.py).

    @property
    def batch_size(self) -> int: ...
    @property
    def drop_last(self) -> bool: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_norm(self) -> float | None: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def local_optimizer(self) -> Any: ...
    @property
    def optimizer_vectors(self) -> int: ...
    def make_optimizer(self, parameters: Sequence[Tensor], lr: float) -> Optimizer | None: ...
    def learning_rate(self, t: int, rounds: int) -> float: ...
    def local_steps(self, seed: int, t: int, client: int, per_epoch: int, attempt: int = 0) -> int: ...
    def clip(self, grad: Tensor) -> Tensor: ...

    # On the server, before the clients.

    def init(self, params: np.ndarray, buffers: np.ndarray) -> Vectors: ...
    def broadcast(self, state: Vectors, t: int) -> Vectors: ...

    # On a client, which is a training.client.Client.

    def receive(self, message: Tensors, inputs: Sequence[Tensors]) -> Tensors: ...
    def init_memory(self, params: Tensor, buffers: Tensor) -> Tensors: ...
    def personal(self, names: Sequence[str], norms: Collection[str]) -> Collection[str]: ...
    def local_round(self, client: Any, message: Tensors, memory: Tensors, lr: float) -> Both: ...
    def loss(self, output: Tensor, targets: Tensor) -> Tensor: ...
    def references(self, message: Tensors, memory: Tensors) -> dict[str, Tensors]: ...
    def penalty(self, features: Tensor, references: Tensors) -> Tensor: ...
    def local_gradient(
        self, gradient: Gradient, params: Tensor, message: Tensors, memory: Tensors, lr: float
    ) -> Tensor: ...
    def correct(self, grad: Tensor, params: Tensor, message: Tensors, memory: Tensors, lr: float) -> Tensor: ...
    def finish(self, start: Tensor, end: Tensor, steps: Any, lr: float, message: Tensors, memory: Tensors) -> Both: ...
    def own_model(self, client: Any, message: Tensors, memory: Tensors, lr: float) -> Tensors: ...

    # On the server, after the clients.

    def weight(self, num_examples: int) -> float: ...
    def denominator(self, weights: float) -> float: ...
    def delta(self, mean: Vectors) -> np.ndarray: ...
    def server_update(self, state: Vectors, mean: Vectors, participation: float) -> Vectors: ...
    def global_model(self, state: Vectors) -> Vectors: ...
    def metrics(self, state: Vectors, mean: Vectors, updates: Updates) -> dict[str, float]: ...


class Address(NamedTuple):
    """Where a client's random draws come from: the seed, the round, the client, and which time it is asked in it."""

    seed: int
    t: int
    client: int
    attempt: int = 0


class Transform(Protocol):
    """A function on an update before it is sent. Several in order are the chain, one paper a file.

    It is frozen and pickles. Tensors are [..., P], as in an algorithm's hooks. Its memory stays at the client and is
    kept or not together with the algorithm's.
    """

    @property
    def name(self) -> str:
        """Its name, under which its memory is kept."""

    @property
    def remembers(self) -> bool:
        """Whether clients keep a memory of it between rounds."""

    def init_memory(self, update: Tensors) -> Tensors:
        """A client's memory before its first update, which `update` is. Later ones have the same names and shapes."""

    def apply(self, update: Tensors, memory: Tensors, address: Address) -> tuple[Tensors, Tensors]:
        """The update as the server will read it, and the new memory. No argument is changed."""

    def encoded_bytes(self, update: Tensors, num_bytes: int) -> int:
        """The length of the update when it is sent, which was `num_bytes` long before this transform.

        It depends on shapes alone, so that nobody waits for a device.
        """
