"""Checks of a prepared experiment against its data and its model, made before anything is on disk."""

import dataclasses
from functools import lru_cache
from typing import Any

from fedray.algorithms.local_optimizer import LocalOptimizer
from fedray.cluster.forks import ForkServer, called_by_name, packed
from fedray.core.algorithm import Algorithm
from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.core.metrics import measurable
from fedray.data.arrays import describe_inputs
from fedray.models.rates import factors_by_name
from fedray.run.prepared import Job
from fedray.training.spec import Recipe


def check_split(job: Job) -> None:
    """Raise BadInputError for data or a partition that cannot be used. This needs no torch."""
    dataset, _ = job.read_data()
    job.experiment.model.check_inputs(dataset.kind, dataset.train_images.shape[1:])
    check_kind(job)
    check_loss(job)
    if job.experiment.skew.colour and job.recipe.shape[0] == 1:
        raise BadInputError(
            f"skew.colour = {job.experiment.skew.colour} scales red, green and blue, but the images of "
            f"{dataset.name} are grey"
        )
    check_measures(job)
    top_k, classes = job.experiment.evaluation.top_k, len(dataset.classes)
    if top_k and top_k >= classes:
        raise BadInputError(
            f"evaluation.top_k = {top_k} takes in all {classes} classes of {dataset.name}, of which the right "
            "one is always one; it must be fewer"
        )
    if any(len(rows) == 0 for rows in job.own_tests or ()):
        raise BadInputError(
            f"the test set has no {dataset.unit.removesuffix('s')} of the labels of some client, which so cannot be "
            "evaluated; use more of data.test_examples, or evaluation.clients_every = 0"
        )


def check_kind(job: Job) -> None:
    """Raise BadInputError for a setting that the kind of the data set's inputs has no use for."""
    e, dataset, shape = job.experiment, job.dataset, job.dataset.train_images.shape[1:]
    if dataset.kind.inputs == "images":
        return
    given = {f"skew.{name}": value for name, value in dataclasses.asdict(e.skew).items() if value}
    if given:
        name, value = next(iter(given.items()))
        raise BadInputError(
            f"{name} = {value} changes uint8 images, and the inputs of {dataset.name} are {dataset.kind.inputs}"
        )
    of_images = {"model.resize": e.model.resize, "model.channels_last": e.model.channels_last}
    if (len(shape) != 3 or dataset.kind.inputs == "tokens") and any(of_images.values()):
        name, value = next((name, value) for name, value in of_images.items() if value)
        raise BadInputError(
            f"{name} = {str(value).lower()} is for inputs of channels, height and width, and those of {dataset.name} "
            f"are {describe_inputs(shape, dataset.kind)}"
        )
    if e.model.pretrained and dataset.kind.inputs == "values":
        low, high = dataset.train_images.min(), dataset.train_images.max()
        if low < 0 or high > 1:
            raise BadInputError(
                f"model.pretrained = true normalises intensities in 0..1 as its weights need it, and the inputs of "
                f"{dataset.name} go from {low:.4g} to {high:.4g}"
            )


def check_loss(job: Job) -> None:
    """Raise BadInputError for a loss, or a way to draw batches, that does not suit the targets. This needs no torch."""
    e, dataset = job.experiment, job.dataset
    name = e.loss.chosen(dataset.kind)
    e.loss.weights(dataset.kind, dataset.train_labels, dataset.classes)
    if e.algorithm.label_smoothing and name != "cross_entropy" and not e.algorithm.has_own_loss:
        raise BadInputError(
            f"algorithm.label_smoothing = {e.algorithm.label_smoothing:g} is for loss.name = cross_entropy, not {name}"
        )
    if e.data.sampling == "balanced" and dataset.kind.targets != "classes":
        raise BadInputError(f"data.sampling = balanced is for classes, and the targets are {dataset.kind.targets}")


def try_own_loss(job: Job) -> None:
    """Try the user's own loss where torch is; BadInputError where it fails."""
    if why := fault_of_own_loss(job, str(job.experiment.engine)):
        raise BadInputError(why)


def fault_of_own_loss(job: Job, engine: str) -> str:
    """The reason why the user's own loss fails in this engine; empty where it does not, or is fedray's."""
    if not job.experiment.loss.is_own:
        return ""
    r = job.recipe
    return fault_of_loss(job.fork_server(), r.loss.name, r.loss_source, r.kind, r.classes, engine)


@lru_cache
def fault_of_loss(server: ForkServer | None, name: str, source: str, kind: Kind, outputs: int, engine: str) -> str:
    """Try an own loss, once for all runs of a sweep that have it."""
    try:
        called_by_name(server, "fedray.training.objective:try_out", name, source, kind, outputs, engine == "fused")()
    except BadInputError as error:
        return str(error)
    return ""


def check_measures(job: Job) -> None:
    """Raise BadInputError for a measure that the data's targets do not have, or a metric of one's own that fails."""
    evaluation, dataset = job.experiment.evaluation, job.dataset
    targets = dataset.kind.targets
    has = f"the targets of {dataset.name} are {TARGETS[targets]}, which have"
    measures = ("loss", *(("accuracy",) if targets != "values" else ()), *measurable(targets))
    for name in dict.fromkeys(evaluation.asked):
        if name not in measures:
            raise BadInputError(f"{has} no {name}; they have {', '.join(measures)}")
    if evaluation.judge(targets) not in (*measures, "own_metric"):
        raise BadInputError(
            f"{has} no {evaluation.judge(targets)}; set evaluation.judged_by to {' or '.join(measures)}"
        )
    if evaluation.target_accuracy and not job.judged.endswith("_accuracy"):
        raise BadInputError(
            f"evaluation.target_accuracy is an accuracy, and on {dataset.name} a run is judged by its "
            f"{evaluation.judge(targets)}; set evaluation.target, or evaluation.judged_by"
        )
    if evaluation.top_k and targets != "classes":
        raise BadInputError(f"{has} no k best; evaluation.top_k = {evaluation.top_k} is for classes")
    if job.own_metric:
        for split in job.splits:
            job.own_metric.attempt(dataset, split)


TARGETS = {"classes": "classes", "labels": "any number of labels", "values": "real numbers"}


def check_shards(job: Job) -> None:
    """Raise BadInputError for a shard, an algorithm or a batch size that does not suit the model."""
    sizes = [len(shard) for shard in job.shards]
    check_batches(job.experiment.algorithm, sizes, bool(job.blueprint.norms))
    check_layers(job)
    check_optimizer(job)
    try_own_loss(job)
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
