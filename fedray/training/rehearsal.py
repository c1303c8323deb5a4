"""A rehearsal of an algorithm: a client's first step on a few random images, and the server's after it.

The user's own is played before anything of a run is written, so that a mistake in the class is one sentence and not a
failed run. A dry run asks it how much a client sends.
"""

import copy
import pickle
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedray.core.algorithm import Algorithm
from fedray.core.errors import BadInputError
from fedray.core.own_code import describe, load_all
from fedray.core.updates import SAVED_TYPES, Updates, Vectors, WeightedSum
from fedray.models.flat import FlatModel
from fedray.server.aggregators import Aggregator
from fedray.server.gathering import gather
from fedray.server.task import Task
from fedray.training.block import evaluate_block, train_block
from fedray.training.spec import Recipe
from fedray.training.trainer import Trainer

IMAGES = 2  # BatchNorm needs two


class Sizes(NamedTuple):
    """The bytes that a client receives and sends in a round."""

    down: int
    up: int


def rehearse(recipe: Recipe, name: str, mine: bytes, rounds: int) -> Sizes:
    """Play a round of one client with one step. BadInputError, with the line, where the algorithm fails.

    `mine` is the pickled algorithm and aggregator of a run of so many rounds. Modules that this process has are left as
    they are: the user's objects are from them.
    """
    try:
        load_all([each for each in recipe.own_classes if module_of(each[1]) not in sys.modules])
        algorithm, aggregator = pickle.loads(mine)
        quick = copy.copy(algorithm)
        batch_size = min(algorithm.batch_size, IMAGES)  # 0 stays the whole shard
        for setting, value in {"steps": 1, "steps_min": None, "batch_size": batch_size, "drop_last": False}.items():
            object.__setattr__(quick, setting, value)
        return play(Trainer(recipe), quick, aggregator, rounds)
    except BadInputError:
        raise
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error
        if isinstance(cause, BadInputError):
            raise cause from None
        raise BadInputError(f"algorithm.name = {name} fails when it is tried: {describe(cause)}") from error


def module_of(address: str) -> str:
    return address.partition(":")[0]


def play(trainer: Trainer, algorithm: Algorithm, aggregator: Aggregator, rounds: int) -> Sizes:
    images, labels = examples(trainer.recipe)
    state, start = algorithm.init(**start_of(trainer.network.flat)), start_of(trainer.network.flat)
    check_arrays("init gave a state", state)
    check_model("init gave a state", state, start)
    check_model("global_model gave a model", algorithm.global_model(state), start)
    message = algorithm.broadcast(state, 1)
    check_model("broadcast gave a message", message, start)
    task = Task(algorithm, message, 1, algorithm.learning_rate(1, rounds), aggregator=aggregator)
    shard = lambda client: (images, labels)  # noqa: E731
    trained, memories = train_block(trainer, task, [0], shard, [{}], aggregator.linear)
    updates = gather(task, [[trained]])
    sizes = Sizes(trained.reports[0].bytes_down, trained.reports[0].bytes_up)
    if not updates.reports:
        return sizes  # a step of this length on random images overflows, which says nothing about the class
    mean = aggregator.aggregate(updates, algorithm.denominator(updates.sum.weight))
    after = algorithm.server_update(state, mean, 1.0)
    check_arrays("server_update gave a state", after)
    check_state(state, after)
    check_model("server_update gave a state", after, start)
    check_model("global_model gave a model", algorithm.global_model(after), start)
    weight = WeightedSum(weight=updates.sum.weight)  # as a round has it
    check_metrics(algorithm, after, mean, replace(updates, sum=weight))
    if algorithm.remembers:
        _, first, _ = trainer.receive(algorithm, trainer.received(task).message, {})
        check_memory({name: tuple(tensor.shape) for name, tensor in first.items()}, memories[0])
    if algorithm.has_own_models:
        evaluate_block(trainer, task, [0], shard, shard, memories)
    return sizes


def examples(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """A few random inputs with targets, of the recipe's kind."""
    kind, shape, rng = recipe.kind, (IMAGES, *recipe.shape), np.random.default_rng(0)
    numbers = np.arange(IMAGES) % recipe.classes
    targets = numbers if kind.targets == "classes" else np.eye(recipe.classes, dtype=np.float32)[numbers]
    if kind.inputs == "values":
        deviations = rng.standard_normal(shape, np.float32)
        mean, std = (np.array(each).reshape(-1, *[1] * (len(shape) - 2)) for each in (recipe.mean, recipe.std))
        return (mean + std * deviations).astype(np.float32), targets
    if kind.inputs == "tokens":
        return rng.integers(0, kind.vocabulary, shape), targets
    return rng.integers(0, 256, shape, np.uint8), targets


def start_of(flat: FlatModel) -> Vectors:
    return {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy().copy()}


def check_arrays(said: str, vectors: Vectors) -> None:
    """Raise ValueError, which begins with `said`, for a value that a checkpoint cannot hold."""
    for name, value in vectors.items():
        if not isinstance(value, np.ndarray | np.generic):
            raise ValueError(
                f"{said} whose {name!r} is of type {type(value).__name__}, and a checkpoint holds NumPy arrays only; "
                "np.array(...) makes one"
            )
        if value.dtype.str not in SAVED_TYPES:
            known = ", ".join(str(np.dtype(each)) for each in SAVED_TYPES)
            raise ValueError(f"{said} whose {name!r} is of type {value.dtype}, and a checkpoint holds {known} only")


def check_model(said: str, vectors: Vectors, model: Vectors) -> None:
    """Raise ValueError, which begins with `said`, where params or buffers are not float32, or not the model's shape."""
    for name, wanted in model.items():
        if name not in vectors:
            raise ValueError(f"{said} without {name!r}, which is always in it")
        found = vectors[name]
        if found.dtype != wanted.dtype:
            raise ValueError(
                f"{said} whose {name!r} are {found.dtype}, and a model is float32; .astype(np.float32) makes it so"
            )
        if found.shape != wanted.shape:
            raise ValueError(f"{said} whose {name!r} have the shape {found.shape}, and the model's are {wanted.shape}")


def check_state(before: Vectors, after: Vectors) -> None:
    """Raise ValueError for a state that has not the vectors of the one before it."""
    was, now = ({name: vector.shape for name, vector in state.items()} for state in (before, after))
    if was != now:
        raise ValueError(f"server_update gave a state with {now}, where it got {was}")


def check_memory(first: dict[str, tuple[int, ...]], later: Vectors) -> None:
    """Raise ValueError for a memory that has not the vectors of the first one."""
    now = {name: vector.shape for name, vector in later.items()}
    if first != now:
        raise ValueError(f"a client's new memory has {now}, and the one before it {first}")


def check_metrics(algorithm: Algorithm, state: Vectors, mean: Vectors, updates: Updates) -> None:
    """Raise ValueError for a metric that is no number."""
    for name, value in algorithm.metrics(state, mean, updates).items():
        float(value)
        if not isinstance(name, str):
            raise ValueError(f"metrics gave a name {name!r}, which is no text")
