"""What a run asks of memory, and what a process of it takes. Arithmetic only."""

import sys
from dataclasses import dataclass
from typing import Literal

from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError

PLAIN_ACTOR_BYTES = 320 * 2**20  # a process with torch imported, measured


FORKED_ACTOR_BYTES = 60 * 2**20  # what such a process has of its own when it was forked, measured after training


HOST_CONTEXT_BYTES = 500 * 2**20  # what a CUDA context takes of the machine's memory, in each process


@dataclass(frozen=True)
class Needs:
    """What a run asks of memory, in bytes: one model vector, all shards as copied into actors, the object store.

    A process that trains holds so many `vectors` as long as the model, for each of as many clients as it trains at once
    (`at_once`, `at_once_on_gpu`), `frozen` bytes that no vector has, and `activations` for batches of images. On a GPU
    it has `activations_on_gpu` instead, and images: shards, of which the `largest_shard` has so many bytes, and those
    that are `evaluated`. `fewer` is what it needs there with one client at a time, where that is left open.
    """

    model: int
    shards: int = 0
    object_store: int = 0
    vectors: int = 4
    frozen: int = 0
    activations: int = 0
    largest_shard: int = 0
    evaluated: int = 0
    activations_on_gpu: int = 0
    at_once: int = 1
    at_once_on_gpu: int = 1
    fewer: "Needs | None" = None
    together: Literal["", "on a GPU", "anywhere"] = ""
    """Where a block's clients have to train in one process, since alone they would have other bits."""


HOST_VECTORS = 4  # as long as the model, of a process whose model is on a GPU: what it sends, and what it is made of


def vectors_of(needs: Needs, on_gpu: bool) -> int:
    """How many vectors as long as the model an actor that has trained holds in the machine's memory."""
    return min(HOST_VECTORS, needs.vectors) if on_gpu else needs.vectors * needs.at_once


def process_bytes(cluster: Cluster, needs: Needs, on_gpu: bool) -> int:
    """The memory of an actor that has trained."""
    process = FORKED_ACTOR_BYTES if will_fork(cluster) else PLAIN_ACTOR_BYTES
    images = HOST_CONTEXT_BYTES if on_gpu else needs.activations
    return process + images + vectors_of(needs, on_gpu) * needs.model + needs.frozen


def will_fork(cluster: Cluster) -> bool:
    """Whether actors are to be forked; BadInputError where that was asked for and cannot be."""
    can = sys.platform == "linux" and cluster.address == "local"
    if cluster.forked and not can:
        raise BadInputError("cluster.forked = true works on Linux with cluster.address = local only")
    return can if cluster.forked is None else cluster.forked


def object_store_bytes(data_bytes: int, model_bytes: int, cohort: int) -> int:
    """What a run holds in shared memory at most: the data set, three messages and a cohort's updates."""
    return data_bytes + (3 + cohort) * model_bytes
