"""Checks of a prepared experiment against its data and its model, made before anything is on disk."""

import dataclasses
from functools import lru_cache
from typing import Any

from fedray.algorithms.local_optimizer import LocalOptimizer
from fedray.cluster.forks import ForkServer, called_by_name, packed
from fedray.core.algorithm import Algorithm
from fedray.core.errors import BadInputError
from fedray.models.rates import factors_by_name
from fedray.run.prepared import Job
from fedray.training.spec import Recipe


def check_split(job: Job) -> None:
    """Raise BadInputError for data or a partition that cannot be used. This needs no torch."""
    dataset, _ = job.read_data()
    if job.experiment.skew.colour and job.recipe.shape[0] == 1:
        raise BadInputError(
            f"skew.colour = {job.experiment.skew.colour} scales red, green and blue, but the images of "
            f"{dataset.name} are grey"
        )
    top_k, classes = job.experiment.evaluation.top_k, len(dataset.classes)
    if top_k and top_k >= classes:
        raise BadInputError(
            f"evaluation.top_k = {top_k} takes in all {classes} classes of {dataset.name}, of which the right "
            "one is always one; it must be fewer"
        )
    if any(len(rows) == 0 for rows in job.own_tests or ()):
        raise BadInputError(
            "the test set has no image of the labels of some client, which so cannot be evaluated; use more of "
            "data.test_examples, or evaluation.clients_every = 0"
        )


def check_shards(job: Job) -> None:
    """Raise BadInputError for a shard, an algorithm or a batch size that does not suit the model."""
    sizes = [len(shard) for shard in job.shards]
    check_batches(job.experiment.algorithm, sizes, bool(job.blueprint.norms))
    check_layers(job)
    check_optimizer(job)
    try_own_algorithm(job)


def check_layers(job: Job) -> None:
    """Raise BadInputError for an algorithm or engine that the model's layers do not allow."""
    algorithm, found = job.experiment.algorithm, job.blueprint
    named = f"algorithm.name = {job.experiment.chosen_name('algorithm')}"
    kept = set(algorithm.personal(found.names, found.norms))
    trained = {name for name, (kind, _) in found.places.items() if kind == "params"}
    if trained <= kept and not algorithm.shares_nothing:
        raise BadInputError(
            f"{named} with model.name = {job.experiment.model.name} keeps all that is trained at the clients, so "
            "that nothing would be shared; that is algorithm.name = local"
        )
    factors_by_name(job.experiment.model.lr_scale, [name for name in found.places if name in trained])
    if (own := trained & kept) and own <= set(found.idle):
        raise BadInputError(f"{named} keeps {', '.join(sorted(own))} at the clients, which the model does not use")
    if job.experiment.engine == "fused" and (why := found.unfit_to_fuse):
        raise BadInputError(f"engine = fused cannot train model.name = {job.experiment.model.name}: {why}")
    if algorithm.compares and found.featureless:
        raise BadInputError(f"{named} compares what the last Linear layer is given, and {found.featureless}")


def check_optimizer(job: Job) -> None:
    """Raise BadInputError for a client optimizer that torch lacks or that does not suit the model."""
    if wanted := job.experiment.algorithm.local_optimizer:
        places = job.blueprint.places.values()
        try_optimizer(job.fork_server(), wanted, tuple(shape for kind, shape in places if kind == "params"))


@lru_cache
def try_optimizer(server: ForkServer | None, wanted: LocalOptimizer, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Try an optimizer where torch is, once for all runs of a sweep; BadInputError where it fails."""
    called_by_name(server, "fedray.algorithms.local_optimizer:check", wanted, shapes)()


def try_own_algorithm(job: Job) -> None:
    """Try the user's own algorithm where torch is, on a few images; BadInputError where it fails."""
    if why := fault_of_own_algorithm(job, str(job.experiment.engine)):
        raise BadInputError(why)


def sizes_of(job: Job) -> Any:
    """The bytes that a client receives in a round and sends, `down` and `up`, from a rehearsal where torch is."""
    e = job.experiment
    recipe = dataclasses.replace(job.recipe, seed=0, engine="plain")
    wanted = recipe, e.chosen_name("algorithm"), packed(e.algorithm, e.aggregator), e.rounds
    return called_by_name(job.fork_server(), "fedray.training.rehearsal:rehearse", *wanted)()


def fault_of_own_algorithm(job: Job, engine: str) -> str:
    """The reason why the user's own algorithm fails in this engine; empty where it does not, or is fedray's."""
    e = job.experiment
    if not e.own_algorithm:
        return ""
    recipe = dataclasses.replace(job.recipe, seed=0, engine=engine)
    mine = packed(e.algorithm, e.aggregator)
    return fault(job.fork_server(), recipe, e.chosen_name("algorithm"), job.algorithm_source, mine, e.rounds)


@lru_cache
def fault(server: ForkServer | None, recipe: Recipe, name: str, source: str, mine: bytes, rounds: int) -> str:
    """Rehearse an algorithm, once for all runs of a sweep that differ in nothing that matters to it.

    `source` is the fingerprint of its content, and `mine` the algorithm with its settings, and the aggregator.
    """
    try:
        called_by_name(server, "fedray.training.rehearsal:rehearse", recipe, name, mine, rounds)()
    except BadInputError as error:
        return str(error)
    return ""


def check_batches(algorithm: Algorithm, sizes: list[int], normalises: bool) -> None:
    """Refuse a batch size that leaves some client without a step, or BatchNorm with a batch of one image."""
    for client, n in enumerate(sizes):
        size = algorithm.batch_size or n
        if algorithm.drop_last and n < size:
            raise BadInputError(
                f"client {client} has {n} examples, fewer than algorithm.batch_size = {size}, and "
                "algorithm.drop_last = true leaves it nothing to train on"
            )
        if normalises and (size == 1 or (n % size == 1 and not algorithm.drop_last)):
            raise BadInputError(
                f"client {client} has {n} examples, so that with algorithm.batch_size = {size} a batch of one image is "
                "left, on which BatchNorm fails; set algorithm.drop_last = true or another batch size"
            )
