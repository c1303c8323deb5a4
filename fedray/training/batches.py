"""A client's batches of a round: its shard, cut, shuffled and augmented."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fedray.core.algorithm import Algorithm
from fedray.core.randomness import generator
from fedray.data.augment import crop_flip_as_drawn, cutout, draw_crop_flip, draw_cutout
from fedray.models.flat import Array, tensor_of
from fedray.training.network import Network
from fedray.training.spec import Recipe
from fedray.training.transfer import to_device


class Epoch(NamedTuple):
    """The batches of an epoch over a shard."""

    size: int
    """The examples of a batch; the last batch may have fewer."""
    used: int
    """The examples of all batches. The rest of the epoch is dropped."""

    @property
    def steps(self) -> int:
        """The number of batches."""
        return -(-self.used // self.size)


def cut_epoch(algorithm: Algorithm, n: int) -> Epoch:
    """Cut an epoch over n examples into batches of the algorithm's batch_size."""
    size = algorithm.batch_size or n
    return Epoch(size, n - n % size if algorithm.drop_last else n)


Drawn = dict[str, Any]
"""The numbers that an epoch was drawn, each [n]: `order`, and where images are augmented `crops` and `holes`."""


def draw_order(recipe: Recipe, rng: np.random.Generator, labels: Array) -> np.ndarray:
    """The examples of an epoch over a shard with these targets [n], as rows [n], as Recipe.sampling says.

    Balanced, every class in the shard is drawn as often on average, and each of its examples as often as the others.
    """
    n = len(labels)
    if recipe.sampling == "shuffle":
        return rng.permutation(n)
    there = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels
    rows = np.argsort(there, kind="stable")
    _, firsts, counts = np.unique(there[rows], return_index=True, return_counts=True)
    drawn = rng.integers(0, len(counts), n)
    return rows[firsts[drawn] + rng.integers(0, counts[drawn])]


def draw_epochs(
    recipe: Recipe,
    algorithm: Algorithm,
    client: int,
    shape: Sequence[int],
    labels: Array,
    t: int,
    first_epoch: int = 0,
    steps: int | None = None,
    attempt: int = 0,
) -> Iterator[tuple[Drawn, list[slice]]]:
    """The epochs of a client with inputs of `shape` [n, ...] and targets: their numbers, and where their batches lie.

    The other arguments are as in `draw_batches`.
    """
    seed, epoch, n = recipe.seed, first_epoch, shape[0]
    cut = cut_epoch(algorithm, n)
    remaining = steps or algorithm.local_steps(seed, t, client, cut.steps, attempt)
    at = {"t": t, "client": client, "attempt": attempt}
    while remaining:
        drawn: Drawn = {"order": draw_order(recipe, generator(seed, "shuffle", **at, epoch=epoch), labels)}
        if "crop-flip" in recipe.augment:
            drawn["crops"] = draw_crop_flip(generator(seed, "augment", **at, epoch=epoch), n)
        if "cutout" in recipe.augment:
            drawn["holes"] = draw_cutout(generator(seed, "cutout", **at, epoch=epoch), shape)
        firsts = list(range(0, cut.used, cut.size))[:remaining]
        yield drawn, [slice(first, min(first + cut.size, cut.used)) for first in firsts]
        remaining -= len(firsts)
        epoch += 1


def augmented(pixels: torch.Tensor, drawn: Drawn, recipe: Recipe) -> torch.Tensor:
    """The images of an epoch, in its order, cropped, flipped and cut out as drawn."""
    if "crops" in drawn:
        pixels = crop_flip_as_drawn(pixels, drawn["crops"])
    if "holes" in drawn:
        pixels = cutout(pixels, drawn["holes"], recipe.cutout, recipe.mean)
    return pixels


def draw_batches(
    network: Network,
    algorithm: Algorithm,
    client: int,
    images: Array,
    labels: Array,
    t: int,
    first_epoch: int = 0,
    steps: int | None = None,
    attempt: int = 0,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of a client in round t, normalised. Each epoch is shuffled and augmented anew.

    There are `steps` batches, or, without `steps`, as many as the algorithm's settings say. `attempt` is as in
    core.randomness.
    """
    recipe, shard = network.recipe, (client, images.shape, labels)
    for drawn, batches in draw_epochs(recipe, algorithm, *shard, t, first_epoch, steps, attempt):
        if isinstance(images, torch.Tensor):
            drawn = dict(zip(drawn, to_device(network.device, list(drawn.values())), strict=True))
        pixels, targets = tensor_of(images[drawn["order"]]), tensor_of(labels[drawn["order"]])
        pixels = augmented(pixels, drawn, recipe)
        for batch in batches:
            yield network.inputs(pixels[batch]), targets[batch].to(network.device)
