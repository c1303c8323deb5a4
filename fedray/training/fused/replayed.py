"""A step's kernels launched all at once: captured in a CUDA graph the first time, and replayed from then on.

Without it a GPU would wait for Python between the kernels of small models. What changes from step to step is copied
into tensors that stay in place: the batch here, params and gradients by who calls.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fedray.training.fused.batches import Batch

MOST_GRAPHS = 32  # of different numbers of clients or widths of batches; beyond that all are captured anew
CAPTURING = "This was while a step was captured in a CUDA graph; engine = plain trains without."
WARM_UP = 3  # runs before a capture, in which libraries choose their ways and caches fill


class Program(Protocol):
    """What computes many clients' gradients."""

    @property
    def constants(self) -> list[torch.Tensor]: ...

    def look_at(self, params: torch.Tensor, grads: torch.Tensor) -> None: ...

    def differentiate(self, algorithm: Any, batch: Batch) -> torch.Tensor: ...

    def forget(self) -> None: ...


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
            self.give_up_graphs()
        own = Batch(batch.sizes, *(given.clone() for given in batch.tensors))
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        self.stream = self.stream or torch.cuda.Stream()  # one for all, since autograd keeps to the stream of a leaf
        self.stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self.stream):  # around the capture, too: torch 2.9 does not leave it if that fails
                for _ in range(WARM_UP):
                    self.program.differentiate(algorithm, own)
                losses = self.record(graph, algorithm, own)
        finally:  # where memory did not suffice, what the stream is still at work on is about to be used again
            torch.cuda.current_stream().wait_stream(self.stream)
        return Captured(graph, own, losses, self.program.constants)

    def record(self, graph: torch.cuda.CUDAGraph, algorithm: Any, own: Batch) -> torch.Tensor:
        """Capture the program itself; its losses."""
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                return self.program.differentiate(algorithm, own)
        except RuntimeError as error:
            error.add_note(CAPTURING)
            raise

    def give_up_graphs(self) -> None:
        self.captured.clear()
        self.pool = None

    def forget(self) -> None:
        """Give up all graphs and their memory, and what the program looks at."""
        self.give_up_graphs()
        self.program.forget()
