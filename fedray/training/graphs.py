"""CUDA graphs that belong together: their memory, and the stream that they are captured on."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
WAITS, PROTOTYPE = "called a synchronizing CUDA operation", "debug mode is a prototype"  # torch's own warnings


class Graphs:
    """CUDA graphs that share their memory. None may leave anything in it that is read after another's replay."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.stream: Any = None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work on a stream of its own for the length of a `with`, in order with what the current one is told.

        A first run here, before the capture, makes what libraries keep for each stream.
        """
        self.stream = self.stream or torch.cuda.Stream()  # one for all, since autograd stays on the stream of a leaf
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):  # around a capture, too: where that fails, torch 2.9 stays on it
                yield
        finally:  # where memory did not suffice, the memory that the stream still works on is about to be used again
            torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, program: Callable[[], T]) -> tuple[Any, T]:
        """Capture the program within `beside`. Nothing is computed. Returns the graph and what the program returned."""
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with nothing_collected(), torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            return graph, program()

    def forget(self) -> None:
        """Take other memory for the graphs to come. That of the others goes with them."""
        self.pool = None


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Python collects no garbage within a `with`: a graph that is destroyed during a capture would end it (seen)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def watch_for_waits() -> Iterator[list[str]]:
    """Note where the host waits for the GPU within a `with`, after it has ended. A capture would fail there."""
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for each in caught:
        if WAITS in str(each.message):
            found.append(str(each.message))
        elif PROTOTYPE not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
