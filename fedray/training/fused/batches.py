"""The batches of many clients in a round. Each shard is cut as for one client (training/batches.py), and padded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fedray.core.randomness import Generators
from fedray.core.updates import Vectors
from fedray.data.augment import crop_flip_as_drawn, cutout, draw_crop_flip, draw_cutout
from fedray.models.dropout import draw_keys, key_epoch
from fedray.models.flat import Array
from fedray.server.task import Task
from fedray.training.batches import cut_epoch, draw_order
from fedray.training.spec import Recipe
from fedray.training.transfer import to_device


@dataclass(frozen=True)
class Share:
    """A client's part of a block. An epoch of it is `used` examples in batches of `size`."""

    place: int
    client: int
    images: Array
    labels: Array
    memory: Vectors
    size: int
    used: int
    per_epoch: int
    steps: int
    width: int
    """The number of rows that its batches are padded to."""


def share_of(
    task: Task,
    seed: int,
    place: int,
    client: int,
    images: Array,
    labels: Array,
    memory: Vectors,
    width: Callable[[int, int], int],
) -> Share:
    """A client's Share. Its batches, epochs and steps are those of training/batches.py.

    `width` gives the rows that batches are padded to, from their size and the algorithm's.
    """
    n, algorithm = len(labels), task.algorithm
    epoch = cut_epoch(algorithm, n)
    size, per_epoch = min(epoch.size, n), epoch.steps
    steps = algorithm.local_steps(seed, task.t, client, per_epoch, task.attempt)
    padded = width(size, algorithm.batch_size)
    return Share(place, client, images, labels, memory, size, epoch.used, per_epoch, steps, padded)


@dataclass(frozen=True)
class Batch:
    """A step's batches of the first A clients, of B rows each. Rows that are padding weigh nothing."""

    sizes: np.ndarray
    """The number of examples in each batch [A]; 0 for a client that has no steps left."""
    pixels: torch.Tensor
    """uint8 [A, B, c, h, w], augmented; values float32 [A, B, ...]; token ids int64 [A, B, length]."""
    targets: torch.Tensor
    """int64 [A, B], or float32 [A, B, K] where they are no classes."""
    weights: torch.Tensor
    """float32 [A, B]: one over the number of examples in the batch; 0 for padding."""
    keys: torch.Tensor
    """int32 [A, layers, 2]: the keys of the dropout layers."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All fields but the sizes, in order."""
        return self.pixels, self.targets, self.weights, self.keys


class Batches:
    """All batches of C clients: S steps of B rows.

    Where a batch has fewer examples, or a client has fewer steps, the other rows are some image of the group and weigh
    nothing. So do all rows of `places` beyond the C clients.
    """

    def __init__(self, recipe: Recipe, shares: list[Share], task: Task, device: str, places: int, dropouts: int):
        """`dropouts` is the number of layers that need keys.

        All that the host draws and counts goes to the device in one copy: `sizes_there`, int64 [S, C], and `steps`,
        float32 [C, 1], are the sizes of the clients' batches and the numbers of their steps there.
        """
        self.recipe = recipe
        lengths = np.array([len(share.labels) for share in shares])
        firsts = np.zeros(places, np.int64)
        firsts[: len(shares)] = lengths.cumsum() - lengths
        rows = draw_epochs(
            shares, recipe.seed, "shuffle", task, places, lambda rng, share: draw_order(recipe, rng, share.labels)
        )
        rows += firsts[:, None]
        drawn = {"rows": rows}
        if "crop-flip" in recipe.augment:
            drawn["crops"] = draw_epochs(
                shares, recipe.seed, "augment", task, places, lambda rng, share: draw_crop_flip(rng, len(share.labels))
            )
        if "cutout" in recipe.augment:
            drawn["holes"] = draw_epochs(
                shares, recipe.seed, "cutout", task, places, lambda rng, share: draw_cutout(rng, share.images.shape)
            )
        self.sizes = np.zeros((shares[0].steps, places), np.int64)
        self.sizes[:, : len(shares)] = batch_sizes(shares)
        weights = (np.arange(shares[0].width) < self.sizes[:, :, None]) / np.maximum(self.sizes, 1)[:, :, None]
        drawn["weights"] = weights.astype(np.float32)
        keys = np.ones((shares[0].steps, places, dropouts, 2), np.int32)
        generators = Generators(recipe.seed, "dropout", task.t, task.attempt)
        for i, share in enumerate(shares if dropouts else ()):
            keys[: share.steps, i] = draw_keys(generators.at(share.client, key_epoch()), share.steps, dropouts)
        drawn |= {"keys": keys, "sizes": self.sizes[:, : len(shares)]}
        drawn["steps"] = np.array([[share.steps] for share in shares], np.float32)
        there = dict(zip(drawn, to_device(device, list(drawn.values())), strict=True))
        self.rows, self.weights, self.keys = there["rows"], there["weights"], there["keys"]
        self.crops, self.holes = there.get("crops"), there.get("holes")
        self.sizes_there, self.steps = there["sizes"], there["steps"]
        labels = join([share.labels for share in shares], device)
        self.targets = labels.index_select(0, self.rows.flatten()).view(*self.rows.shape, *labels.shape[1:])
        self.images = join([share.images for share in shares], device)

    def at(self, step: int, count: int) -> Batch:
        """A step's batches of the first `count` clients."""
        pixels = self.images.index_select(0, self.rows[step, :count].flatten())
        if self.crops is not None:
            pixels = crop_flip_as_drawn(pixels, self.crops[step, :count].flatten())
        if self.holes is not None:
            pixels = cutout(pixels, self.holes[step, :count].flatten(), self.recipe.cutout, self.recipe.mean)
        return Batch(
            self.sizes[step, :count],
            pixels.view(count, self.rows.shape[2], *pixels.shape[1:]),
            self.targets[step, :count],
            self.weights[step, :count],
            self.keys[step, :count],
        )


def join(parts: list[Array], device: str) -> torch.Tensor:
    """Arrays of the host, or tensors of the device, joined on the device."""
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return torch.cat(tensors) if tensors else to_device(device, [np.concatenate(parts)])[0]


def draw_epochs(
    shares: list[Share],
    seed: int,
    purpose: str,
    task: Task,
    count: int,
    draw: Callable[[np.random.Generator, Share], np.ndarray],
) -> np.ndarray:
    """The numbers that `draw` gives for each example in each epoch of each client, by batch [S, count, B]; else 0."""
    batches = np.zeros((shares[0].steps, count, shares[0].width), np.int64)
    generators = Generators(seed, purpose, task.t, task.attempt)
    for i, share in enumerate(shares):
        for epoch, steps in share_epochs(share):
            deal(batches[steps, i], draw(generators.at(share.client, epoch), share), share)
    return batches


def share_epochs(share: Share) -> Iterator[tuple[int, slice]]:
    """Each epoch of a client, and the steps in it. The last epoch may be broken off."""
    for epoch, first in enumerate(range(0, share.steps, share.per_epoch)):
        yield epoch, slice(first, min(first + share.per_epoch, share.steps))


def deal(batches: np.ndarray, epoch: np.ndarray, share: Share) -> None:
    """Write a client's epoch [n] into its batches [at most per_epoch, B]. Padding stays as it is."""
    full = min(share.used // share.size, len(batches))
    batches[:full, : share.size] = epoch[: full * share.size].reshape(full, share.size)
    if full < len(batches):
        batches[full, : share.used - full * share.size] = epoch[full * share.size : share.used]


def batch_sizes(shares: list[Share]) -> np.ndarray:
    """The number of examples in each step's batch of each client [S, C]. It is 0 after a client's last step."""
    size, used, per_epoch, steps = np.array([(s.size, s.used, s.per_epoch, s.steps) for s in shares]).T
    step = np.arange(steps[0])[:, None]
    return np.where(step < steps, np.minimum(size, used - step % per_epoch * size), 0)
