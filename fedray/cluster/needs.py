"""The memory that a run and each of its processes take. Arithmetic only."""

import sys
from dataclasses import dataclass
from typing import Literal

from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError

PLAIN_ACTOR_BYTES = 320 * 2**20  # a process with torch imported, measured
FORKED_ACTOR_BYTES = 60 * 2**20  # such a process's own memory where it was forked, measured after training
HOST_CONTEXT_BYTES = 500 * 2**20  # of the machine's memory, for each process with a CUDA context


@dataclass(frozen=True)
class Needs:
    """The memory of a run in bytes: `model` for one vector, `shards` for all copies in actors, `object_store`.

    A process that trains holds `vectors` vectors for each client that it trains at once (`at_once`, `at_once_on_gpu`),
    `frozen` bytes that are in no vector, and `activations` for batches of images. On a GPU it holds
    `activations_on_gpu` instead, and images: shards, the largest of `largest_shard` bytes, and `evaluated` bytes. Where
    the number of clients at once is open, `fewer` is the need on a GPU with one at a time.
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
    """Where a block's clients must train in one process: apart they would have other bits."""


HOST_VECTORS = 4  # of a process whose model is on a GPU: the initial model, and what it sends


def vectors_of(needs: Needs, on_gpu: bool) -> int:
    """The number of vectors of the model's length in the machine's memory, in an actor that has trained."""
    return min(HOST_VECTORS, needs.vectors) if on_gpu else needs.vectors * needs.at_once


def process_bytes(cluster: Cluster, needs: Needs, on_gpu: bool) -> int:
    """The memory of an actor that has trained."""
    process = FORKED_ACTOR_BYTES if will_fork(cluster) else PLAIN_ACTOR_BYTES
    images = HOST_CONTEXT_BYTES if on_gpu else needs.activations
    return process + images + vectors_of(needs, on_gpu) * needs.model + needs.frozen


def will_fork(cluster: Cluster) -> bool:
    """Whether actors are forked. BadInputError where the settings ask for it and it is impossible."""
    can = sys.platform == "linux" and cluster.address == "local"
    if cluster.forked and not can:
        raise BadInputError("cluster.forked = true works on Linux with cluster.address = local only")
    return can if cluster.forked is None else cluster.forked


def object_store_bytes(data_bytes: int, model_bytes: int, cohort: int) -> int:
    """The most bytes of a run in shared memory: the data set, three messages and a cohort's updates."""
    return data_bytes + (3 + cohort) * model_bytes
