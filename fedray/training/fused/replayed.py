"""The kernels of a step, launched all at once. A CUDA graph captures them the first time and replays them later.

Without a graph the GPU waits for Python between the kernels of small models. A graph reads and writes tensors that stay
in place. The batch is copied into them here. The caller sees to the params and gradients.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fedray.core.algorithm import Algorithm
from fedray.models.flat import Tensors
from fedray.training.fused.batches import Batch
from fedray.training.graphs import Graphs
from fedray.training.objective import Objective

MOST_GRAPHS = 32  # one for each number of clients and width of batches; beyond that all are captured anew
CAPTURING = "This was while a step was captured in a CUDA graph; engine = plain trains without."
WARM_UP = 3  # runs before a capture, in which libraries choose their algorithms and caches fill


class Program(Protocol):
    """A computation of many clients' gradients."""

    objective: Objective

    @property
    def constants(self) -> list[torch.Tensor]: ...
    @property
    def moving(self) -> list[torch.Tensor]: ...

    def kind_of(self, batch: Batch) -> Hashable: ...

    @property
    def apart(self) -> list[torch.Tensor]: ...

    def look_at(self, params: Tensors, grads: torch.Tensor | None) -> None: ...

    def differentiate(self, algorithm: Algorithm, batch: Batch) -> torch.Tensor: ...

    def forget(self) -> None: ...


@dataclass(frozen=True)
class Captured:
    """A graph, the batch that it reads, the losses [A] and the gradients apart that it writes, and the constants that
    it reads, too."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    losses: torch.Tensor
    constants: list[torch.Tensor]
    apart: list[torch.Tensor]


class Replayed:
    """A program that replays another one. Params and gradients of one shape must always be the same memory."""

    def __init__(self, program: Program):
        self.program = program
        self.captured: dict[Any, Captured] = {}
        self.graphs = Graphs()
        self.place: tuple[int, ...] = ()
        self.apart: list[torch.Tensor] = []

    def look_at(self, params: Tensors, grads: torch.Tensor | None) -> None:
        """Differentiate at `params` and write into `grads` from now on, as the program does."""
        self.program.look_at(params, grads)
        written = [] if grads is None else [grads]
        self.place = tuple(tensor.data_ptr() for tensor in (*params.values(), *written))

    def differentiate(self, algorithm: Algorithm, batch: Batch) -> torch.Tensor:
        """The losses [A] of these batches. Their gradients are written. The next call overwrites them, and `apart`."""
        if self.program.objective.hook(algorithm):  # its kernels depend on the sizes of the batches
            losses = self.program.differentiate(algorithm, batch)
            self.apart = self.program.apart
            return losses
        key = (self.place, batch.targets.shape, algorithm.label_smoothing, self.program.kind_of(batch))
        if key not in self.captured:
            before = [tensor.clone() for tensor in self.program.moving]
            self.captured[key] = self.capture(algorithm, batch)
            for tensor, value in zip(self.program.moving, before, strict=True):
                tensor.copy_(value)
        captured = self.captured[key]
        for static, given in zip(captured.batch.tensors, batch.tensors, strict=True):
            static.copy_(given)
        captured.graph.replay()
        self.apart = captured.apart
        return captured.losses

    def capture(self, algorithm: Algorithm, batch: Batch) -> Captured:
        """Run the program for such batches on a stream beside the current one, then capture it there.

        PyTorch's notes on CUDA semantics do the same for whole networks.
        """
        if len(self.captured) == MOST_GRAPHS:
            self.give_up_graphs()
        own = Batch(batch.sizes, *(given.clone() for given in batch.tensors))
        with self.graphs.beside():
            for _ in range(WARM_UP):
                self.program.differentiate(algorithm, own)
            try:
                graph, losses = self.graphs.capture(lambda: self.program.differentiate(algorithm, own))
            except RuntimeError as error:
                error.add_note(CAPTURING)
                raise
        return Captured(graph, own, losses, self.program.constants, self.program.apart)

    def give_up_graphs(self) -> None:
        self.captured.clear()
        self.apart = []
        self.graphs.forget()

    def forget(self) -> None:
        """Give up all graphs and their memory, and the program's params and gradients."""
        self.give_up_graphs()
        self.program.forget()
