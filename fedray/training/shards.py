"""The images and labels of clients: on the device where they fit, and otherwise on the host."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedray.data.skew import SHARD
from fedray.models.flat import Array, tensor_of
from fedray.training.device import LARGEST_KEPT, has_own_memory
from fedray.training.spec import Recipe
from fedray.training.transfer import Examples


def place(images: Array, labels: Array, device: str) -> Examples:
    """Put images and labels on the device. Those that are too large for it stay on the host."""
    if isinstance(images, torch.Tensor) or not has_own_memory(device) or images.nbytes > LARGEST_KEPT:
        return images, labels
    return torch.from_numpy(images).to(device), tensor_of(labels).to(device)


@dataclass(frozen=True)
class Kept:
    """Several clients' images and labels on the device, one client's after another's: client k's end before ends[k]."""

    images: torch.Tensor
    labels: torch.Tensor
    ends: list[int]

    def of(self, client: int) -> Examples:
        """A client's, as views."""
        mine = slice(self.ends[client - 1] if client else 0, self.ends[client])
        return self.images[mine], self.labels[mine]


def keep(
    recipe: Recipe,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    rows: Sequence[np.ndarray],
    drawn: int = SHARD,
) -> Kept | None:
    """Everybody's images on the device, each client's `rows` of them as it sees them; None where they stay on the host.

    `drawn` is as in Recipe.seen_by.
    """
    if not has_own_memory(device) or sum(map(len, rows)) * images[0].nbytes > LARGEST_KEPT:
        return None
    ends = np.cumsum([len(mine) for mine in rows]).tolist()
    seen = np.empty((ends[-1], *images.shape[1:]), images.dtype)
    for client, (mine, end) in enumerate(zip(rows, ends, strict=True)):
        seen[end - len(mine) : end] = recipe.seen_by(client, images[mine], drawn)
    their_labels = torch.from_numpy(labels[np.concatenate(rows)])
    return Kept(torch.from_numpy(seen).to(device), their_labels.to(device), ends)


class Shards:
    """The clients' examples out of one split: everybody's, or those of the clients that are taken in one by one.

    The split stays on the host, where several processes may share it. A client's rows are copied out of it.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str,
        images: np.ndarray,
        labels: np.ndarray,
        rows: Sequence[np.ndarray] | None,
        drawn: int = SHARD,
    ):
        """`rows` are everybody's, an array for each client, or None. `drawn` is as in Recipe.seen_by."""
        self.recipe, self.device, self.images, self.labels = recipe, device, images, labels
        self.rows, self.drawn = rows, drawn
        self.kept: Kept | None = None
        self.asked = False
        self.adopted: dict[int, np.ndarray] = {}
        self.held: dict[int, Examples] = {}

    def of(self, client: int) -> Examples:
        """A client's images and labels, as it sees them."""
        if self.rows is not None:
            self.keep()
            return self.kept.of(client) if self.kept else self.copy(client, self.rows[client])
        if client not in self.held:
            if not has_own_memory(self.device):
                return self.copy(client, self.adopted[client])
            self.hold(client, self.adopted[client])
        return self.held[client]

    def keep(self) -> None:
        """Copy everybody's examples to the device, where they fit. Only the first call does so."""
        if self.rows is not None and not self.asked:
            self.kept = keep(self.recipe, self.device, self.images, self.labels, self.rows, self.drawn)
            self.asked = True

    def adopt(self, client: int, rows: np.ndarray) -> None:
        """Take a client in. `of` copies its examples, each time or, to a device, once."""
        self.adopted[client] = rows

    def hold(self, client: int, rows: np.ndarray) -> None:
        """Take a client in, and copy its examples to where they are worked on."""
        self.held[client] = place(*self.copy(client, rows), self.device)

    def copy(self, client: int, rows: np.ndarray) -> Examples:
        """A client's rows of the split, copied, as it sees them."""
        return self.recipe.seen_by(client, self.images[rows], self.drawn), self.labels[rows]
