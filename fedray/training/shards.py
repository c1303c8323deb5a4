"""The shards of a process, kept on its device where they fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedray.data.skew import SHARD
from fedray.training.device import LARGEST_KEPT

if TYPE_CHECKING:
    from fedray.training.trainer import Trainer
from fedray.training.transfer import Examples


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
    trainer: "Trainer", images: np.ndarray, labels: np.ndarray, rows: Sequence[np.ndarray], drawn: int = SHARD
) -> Kept | None:
    """Everybody's images, each client's `rows` of them as it sees them, to be kept on the trainer's device.

    `drawn` is as in Recipe.seen_by. None where they stay on the host.
    """
    if not trainer.apart or sum(map(len, rows)) * images[0].nbytes > LARGEST_KEPT:
        return None
    ends = np.cumsum([len(mine) for mine in rows]).tolist()
    seen = np.empty((ends[-1], *images.shape[1:]), images.dtype)
    for client, (mine, end) in enumerate(zip(rows, ends, strict=True)):
        seen[end - len(mine) : end] = trainer.recipe.seen_by(client, images[mine], drawn)
    their_labels = torch.from_numpy(labels[np.concatenate(rows)])
    return Kept(torch.from_numpy(seen).to(trainer.device), their_labels.to(trainer.device), ends)
