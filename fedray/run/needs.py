"""The memory that a run needs. Arithmetic only."""

import dataclasses
import math

from fedray.cluster.gpus import mib
from fedray.cluster.needs import Needs, object_store_bytes, vectors_of
from fedray.core.algorithm import Algorithm
from fedray.core.errors import BadInputError
from fedray.core.limits import available_memory
from fedray.experiment.experiment import Experiment
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
    remembered = memory_bytes(job) * (remembering(e, e.rounds) + 2 * e.cohort)  # those replaced and learned, too
    store = object_store_bytes(shared, model, e.cohort) + remembered
    largest = max(map(len, job.shards), default=0)
    largest_shard = largest * train // len(d.train_labels)
    batch, blueprint = min(e.algorithm.batch_size or largest, largest), job.blueprint
    needs = Needs(
        model=model,
        shards=shards,
        object_store=store,
        vectors=vectors_held(e.algorithm) + 2 * bool(e.model.lr_scale),  # the factors, and a direction times them
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


def memory_bytes(job: Job) -> int:
    """The bytes of what one client remembers: its part of the model, and a whole one where an algorithm keeps more."""
    algorithm, found = job.experiment.algorithm, job.blueprint
    own = set(algorithm.personal(found.names, found.norms)) if algorithm.personalises else ()
    part = sum(4 * math.prod(shape) for name, (_, shape) in found.places.items() if name in own)
    return part + algorithm.keeps_a_memory * sum(vector.nbytes for vector in job.vectors)


def remembering(e: Experiment, rounds: int) -> int:
    """The number of clients that remember something after so many rounds: all that were ever drawn, as expected."""
    seen = e.clients - e.unseen
    return math.ceil(round(seen * (1 - (1 - e.cohort / seen) ** rounds), 6))


def check_memory_here(job: Job, played: Played) -> None:
    """Refuse clients' memories that this process cannot hold, with the arithmetic, where there is no Ray to spill."""
    needs, each, e = needs_of(job, played), memory_bytes(job), job.experiment
    clients, free = remembering(e, e.rounds), available_memory()
    training = vectors_of(needs, played.device != "cpu") * needs.model + needs.frozen
    if not each or clients * each + training <= free:
        return
    raise BadInputError(
        f"{clients:,} clients' memories x {each / 2**20:.3g} MiB and {mib(training)} MiB to train with need "
        f"{mib(clients * each + training)} MiB, but {mib(free)} MiB are free; choose fewer clients, a smaller model or "
        "cluster.backend = ray, which keeps on disk what does not fit"
    )


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
