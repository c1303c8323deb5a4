"""Memory for the params of many clients while they descend. On a GPU it stays where it is, since graphs read it."""

from dataclasses import dataclass
from typing import Protocol

import torch

from fedray.models.flat import Layout, Tensors

ALIGNED = 64  # numbers; each parameter then begins where kernels read whole words


class Room(Protocol):
    """The params of a group of clients, and their gradients where these are flat."""

    def leaves(self, count: int) -> Tensors:
        """Each parameter of the first `count` clients, [count, ...], by name. Writing to it writes here."""

    def grads(self, count: int) -> torch.Tensor | None:
        """Memory for the gradients [count, P] of the first `count` clients; None where they are left apart."""

    def end(self, count: int) -> torch.Tensor:
        """The params [count, P] of the first `count` clients."""


@dataclass(frozen=True)
class Rows:
    """Params and gradients as [places, P], for hooks that see them as vectors."""

    layout: Layout
    params: torch.Tensor
    slopes: torch.Tensor

    def leaves(self, count: int) -> Tensors:
        return self.layout.views(self.params[:count])

    def grads(self, count: int) -> torch.Tensor:
        return self.slopes[:count]

    def end(self, count: int) -> torch.Tensor:
        return self.params[:count]


class Blocks:
    """A block [places, ...] for each parameter, in memory of its own: what nobody looks at as a vector.

    A GPU reads and writes such blocks in whole words. A row of [places, P] begins anywhere.
    """

    def __init__(self, layout: Layout, whole: torch.Tensor, places: int, start: torch.Tensor):
        """In `whole`, of at least `blocks_size` numbers. All clients are at `start` [P]."""
        self.blocks, first = Tensors(), 0
        for name, value in layout.views(start).items():
            last = first + places * value.numel()
            self.blocks[name] = whole[first:last].view(places, *value.shape)
            self.blocks[name].copy_(value)
            first = -(-last // ALIGNED) * ALIGNED

    def leaves(self, count: int) -> Tensors:
        return {name: block[:count] for name, block in self.blocks.items()}

    def grads(self, count: int) -> None:
        return None

    def end(self, count: int) -> torch.Tensor:
        return torch.cat([block[:count].flatten(1) for block in self.blocks.values()], 1)


def blocks_size(layout: Layout, places: int) -> int:
    """The most numbers that the blocks of so many places take."""
    return places * layout.size + ALIGNED * len(layout.names)
