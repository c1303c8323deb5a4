"""A step's kernels launched all at once: captured in a CUDA graph the first time, and replayed from then on.

Without it a GPU would wait for Python between the kernels of small models. What changes from step to step is copied
into tensors that stay in place: the batch here, params and gradients by who calls.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fedray.fused.batches import Batch

MOST_GRAPHS = 32  # of different numbers of clients or widths of batches; beyond that all are captured anew
WARM_UP = 3  # runs before a capture, in which libraries choose their ways and caches fill


class Program(Protocol):
    """What computes many clients' gradients."""

    @property
    def constants(self) -> list[torch.Tensor]: ...

    def look_at(self, params: torch.Tensor, grads: torch.Tensor) -> None: ...

    def differentiate(self, algorithm: Any, batch: Batch) -> torch.Tensor: ...


@dataclass(frozen=True)
class Captured:
    """A graph, the batch that it reads, the losses [A] that it writes, and what else must not go while it is used."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    losses: torch.Tensor
    constants: list[torch.Tensor]


class Replayed:
    """Another program, replayed. Params and gradients must be the same memory whenever they have the same shape."""

    def __init__(self, program: Program):
        self.program = program
        self.captured: dict[Any, Captured] = {}
        self.pool: Any = None
        self.stream: Any = None
        self.place: tuple[int, ...] = ()

    def look_at(self, params: torch.Tensor, grads: torch.Tensor) -> None:
        """As the program's."""
        self.program.look_at(params, grads)
        self.place = (params.data_ptr(), grads.data_ptr(), len(params))

    def differentiate(self, algorithm: Any, batch: Batch) -> torch.Tensor:
        """The losses [A] of these batches, to be read before the next call; the gradients are written."""
        if algorithm.has_own_loss:  # what it launches depends on the sizes of the batches
            return self.program.differentiate(algorithm, batch)
        key = (self.place, batch.targets.shape, algorithm.label_smoothing)
        if key not in self.captured:
            self.captured[key] = self.capture(algorithm, batch)
        captured = self.captured[key]
        for static, given in zip(captured.batch.tensors, batch.tensors, strict=True):
            static.copy_(given)
        captured.graph.replay()
        return captured.losses

    def capture(self, algorithm: Any, batch: Batch) -> Captured:
        """Run the program for such batches on a stream beside the current one, then capture it there, as PyTorch's
        notes on CUDA semantics say of whole networks."""
        if len(self.captured) == MOST_GRAPHS:
            self.forget()
        own = Batch(batch.sizes, *(given.clone() for given in batch.tensors))
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        self.stream = self.stream or torch.cuda.Stream()  # one for all, since autograd keeps to the stream of a leaf
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self.program.differentiate(algorithm, own)
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            losses = self.program.differentiate(algorithm, own)
        return Captured(graph, own, losses, self.program.constants)

    def forget(self) -> None:
        """Give up all graphs and their memory."""
        self.captured.clear()
        self.pool = None
