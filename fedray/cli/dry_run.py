"""The plan of one run, without a Ray and without a file: what the run will take, or why it cannot start."""

from collections.abc import Iterator

import numpy as np

from fedray.cli.console import describe_data, describe_network, describe_splits
from fedray.cluster.capacity import capacity_here
from fedray.cluster.gpus import mib
from fedray.cluster.needs import process_bytes, vectors_of
from fedray.cluster.plan import reserves_gpus, stored_bytes
from fedray.core.errors import BadInputError
from fedray.core.limits import available_memory
from fedray.data.cache import nothing_kept
from fedray.results.folder import check_version
from fedray.run.checks import check_shards, check_split, sizes_of
from fedray.run.disk import check_disk, describe_disk, parts_of
from fedray.run.needs import check_memory_here, memory_bytes, needs_of, remembering
from fedray.run.opening import describe, open_past, planned_on
from fedray.run.played import check_ended, decide
from fedray.run.prepared import Job

Lines = Iterator[tuple[str, str]]


def plan_of(job: Job, fresh: bool) -> Lines:
    """Labelled sentences on the plan of a run. BadInputError where the run itself would be refused."""
    e = job.experiment
    if not e.model.is_here:
        raise BadInputError(f"the weights of {e.model.name} are not here yet, and a dry run fetches nothing")
    if not fresh:
        check_version(e.output.root, e.output.name)
    with nothing_kept():
        check_split(job)
    check_shards(job)
    yield "run", f"{job.run} in {job.folder}/{progress(job, fresh)}"
    yield "data", describe_data(job)
    yield "clients", describe_shards(job)
    yield "model", describe_network(job)
    if job.blueprint.start:
        yield "note", job.blueprint.start
    yield from resources(job)
    parts = parts_of(job, fresh)
    yield "disk", describe_disk(parts)
    notices = [] if job.ended and not fresh else check_disk(parts)
    sizes, asked = sizes_of(job), e.cohort + e.faults.over_selection
    down, up = asked * sizes.down, e.cohort * sizes.up
    yield (
        "traffic",
        f"{down / 1e6:,.3g} MB down and {up / 1e6:,.3g} MB up a round, {(down + up) * e.rounds / 1e6:,.4g} MB in all",
    )
    for sentence in notices:
        yield "note", f"the disk may become full: {sentence}"


def progress(job: Job, fresh: bool) -> str:
    """What there is of the run already, as the end of a sentence; BadInputError where it cannot go on."""
    if fresh:
        return ", started over"
    if job.ended:
        check_ended(job)
        return f", {job.status} before and not repeated"
    past, _, why = open_past(job)
    left = job.experiment.rounds - past.t if past else 0
    if past:
        return f", {past.notice}; {left:,} round{'s are' if left != 1 else ' is'} left"
    return f", from round 1: {why}" if why else ""


def describe_shards(job: Job) -> str:
    """The number of shards, their sizes, and the cohort."""
    e, sizes, unit = job.experiment, np.array([len(shard) for shard in job.shards]), job.dataset.unit
    unused = f"; {job.unused:,} {unit} are in no shard" if job.unused else ""
    spread = f"{sizes.min():,} to {sizes.max():,} {unit}, {np.median(sizes):,.0f} the median"
    even = f"{sizes.min():,} {unit}"
    shards = f"{e.clients:,}, {e.partition.name} shards of {even if sizes.min() == sizes.max() else spread}{unused}"
    return f"{shards}; {e.cohort:,} take part in each of {e.rounds:,} rounds{describe_splits(job)}"


def resources(job: Job) -> Lines:
    """The processes that train, and their memory; BadInputError where they do not fit."""
    e = job.experiment
    if e.cluster.backend == "in-process":
        played = decide(job, "cpu")
        check_memory_here(job, played)
        needs = needs_of(job, played)
        training = vectors_of(needs, on_gpu=False) * needs.model + needs.activations + needs.frozen
        memories = remembering(e, e.rounds) * memory_bytes(job)
        yield "actors", "this process, no Ray"
        yield (
            "memory",
            f"{mib(training):,} MiB to train with and {mib(memories):,} MiB that clients remember; "
            f"{mib(available_memory()):,} MiB are free",
        )
    elif e.cluster.address != "local":
        yield "actors", f"as many as fit the cluster at {e.cluster.address}, which a dry run does not ask"
    else:
        capacity = capacity_here(e.cluster)
        device = "cuda" if reserves_gpus(e.cluster, capacity) else "cpu"
        played, planned = planned_on(job, capacity, e.cluster, device)
        each = process_bytes(e.cluster, needs_of(job, played), planned.num_gpus > 0)
        shared = stored_bytes(e.cluster, needs_of(job, played), capacity)
        yield "actors", f"{describe(planned, e.clients, capacity, device)}; engine = {played.engine}"
        yield (
            "memory",
            f"{planned.actors:,} x {mib(each):,} MiB and {mib(shared):,} MiB of shared memory; "
            f"{mib(capacity.memory):,} MiB are free",
        )
