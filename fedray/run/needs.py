"""The memory that a run needs. Arithmetic only."""

import dataclasses

from fedray.cluster.needs import Needs, object_store_bytes
from fedray.core.algorithm import Algorithm
from fedray.models.model import Model
from fedray.run.played import Played, decide
from fedray.run.prepared import Job
from fedray.training.chunks import VECTORS, bytes_of_client, most_at_once
from fedray.training.spec import EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU


def needs_of(job: Job, played: Played | None = None) -> Needs:
    """The bytes that this run takes, by kind, where `played` trains it; without it what trains it on a CPU."""
    d, e, played = job.dataset, job.experiment, played or decide(job, "cpu")
    model = sum(vector.nbytes for vector in job.vectors)
    train = d.train_images.nbytes + d.train_labels.nbytes
    held = sum(len(shard) for shard in job.shards)  # more than there are, where a partition draws with replacement
    evaluated = sum(part.nbytes for part in (*d.examples("test"), *d.examples("validation")))
    shared = train + evaluated + 8 * held
    shards = held * train // len(d.train_labels)
    remembered = e.clients * model if e.algorithm.remembers else 0  # a model each, at most, in all that are here
    store = object_store_bytes(shared, model, e.cohort) + remembered
    largest = max(map(len, job.shards), default=0)
    largest_shard = largest * train // len(d.train_labels)
    batch, blueprint = min(e.algorithm.batch_size or largest, largest), job.blueprint
    needs = Needs(
        model=model,
        shards=shards,
        object_store=store,
        vectors=vectors_held(e.algorithm),
        frozen=blueprint.frozen_bytes * copies_held(e.algorithm, e.model),
        activations=blueprint.activation_bytes(batch, EVALUATION_BATCH),
        largest_shard=largest_shard,
        evaluated=evaluated,
        activations_on_gpu=blueprint.activation_bytes(batch, EVALUATION_BATCH_ON_GPU),
    )
    if played.engine != "fused":
        return needs
    params, images = job.vectors[0].nbytes, (blueprint.kept_bytes, blueprint.widest_bytes)
    of_client = bytes_of_client(params, e.algorithm.batch_size or largest, *images)
    block = -(-(e.cohort + e.faults.over_selection) // played.blocks)
    on_cpu, on_gpu = (
        min(block, most_at_once(e.chunk_size, size, gpu)) for size, gpu in ((params, False), (of_client, True))
    )
    one = dataclasses.replace(
        needs,
        activations=max(needs.activations, on_cpu * blueprint.activation_bytes(batch, 0)),
        activations_on_gpu=max(needs.activations_on_gpu, of_client - VECTORS * params),
        at_once=on_cpu,
        together="on a GPU" if e.model.is_written_out else "anywhere",
    )
    images_at_once = max(needs.activations_on_gpu, on_gpu * (of_client - VECTORS * params))
    many = dataclasses.replace(one, at_once_on_gpu=on_gpu, activations_on_gpu=images_at_once)
    return many if e.chunk_size else dataclasses.replace(many, fewer=one)


def vectors_held(algorithm: Algorithm) -> int:
    """The number of vectors of the model's length that a process holds while it trains, measured with alexnet on a CPU.

    Every process holds its parameters, their gradients by layer and as one vector, the update, its weighted copy, the
    block's sum, and gaps of the allocator: 8 in all. Momentum, weight decay, clipping or a correction add a direction.
    A torch optimizer adds its own, a correction 2, clients that remember 4, features that are compared 4, a gradient of
    several places 4.
    """
    optimizer = algorithm.optimizer_vectors if algorithm.local_optimizer else 0
    directs = bool(algorithm.momentum or algorithm.weight_decay or algorithm.clip_norm or algorithm.corrects)
    further = 4 * (algorithm.remembers + algorithm.compares + algorithm.has_own_gradient)
    return 8 + directs + optimizer + 2 * algorithm.corrects + further


def copies_held(algorithm: Algorithm, model: Model) -> int:
    """The number of copies of the frozen parameters that a process holds at most.

    One is its own. Where clients remember, a second model is built before its frozen part is shared. Weights that
    cannot be mapped from their file count once more.
    """
    return 1 + algorithm.remembers + model.is_read_whole
