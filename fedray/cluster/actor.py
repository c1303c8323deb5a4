"""The Ray actor that runs clients. Torch, and modules that need it, are imported when an actor starts: the driver does
not need them, and a forked actor has them already."""

import os
import pickle
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from fedray.cluster.recall import heeding
from fedray.cluster.versions import differences, software
from fedray.core.breakpoints import refuse_breakpoints
from fedray.core.errors import ClientError, blamed_on
from fedray.core.own_code import edited, load_all
from fedray.core.scores import Measured
from fedray.core.updates import Scores, Trained, Vectors
from fedray.data.skew import TEST
from fedray.training.spec import Recipe

if TYPE_CHECKING:
    from fedray.server.task import Task
    from fedray.training.transfer import Examples


@dataclass(frozen=True)
class NodeData:
    """The one copy of the data set on a node, which all its actors read. The arrays are as in fedray.data.Dataset."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray


BY_VALUE = 64 * 2**10
"""The most bytes of vectors that a call carries itself: the way through the object store takes 2 ms. They are pickled
here, since Ray takes 0.4 ms longer for arrays than for bytes."""


@dataclass(frozen=True)
class Rows(Sequence[np.ndarray]):
    """The rows of several clients in one array, client after client: client k's rows end before ends[k]."""

    rows: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[self.ends[place - 1] if place else 0 : self.ends[place]]


def join_rows(parts: list[np.ndarray]) -> Rows:
    """The Rows of these parts, in this order."""
    return Rows(np.concatenate(parts), np.cumsum([len(part) for part in parts]))


Orders = bytes | tuple[bytes, Vectors]
"""The task and its message, pickled together; if the message is large, the task is pickled alone."""


def unpickled(orders: bytes) -> Any:
    """The pickled objects. The user's modules are imported for them, so an error is a ClientError."""
    with blamed_on("a client's algorithm and message could not be unpickled"):
        return pickle.loads(orders)


class Enrolment:
    """An actor's part in one run: a trainer, the node's data, and its own clients' shards or the rows of all clients.

    On a GPU the images of the clients, and of the splits to evaluate on, are copied to the device once.
    """

    def __init__(self, recipe: Recipe, data: NodeData, shards: Rows | None, own_tests: Rows | None, device: str):
        from fedray.training.shards import Shards
        from fedray.training.trainer import Trainer

        load_all(recipe.own_classes)
        self.trainer, self.data = Trainer(recipe, device), data
        self.shards = Shards(recipe, device, data.train_images, data.train_labels, shards)
        tested_on = data.train_images, data.train_labels
        if not recipe.tested_on_own:
            tested_on = data.test_images, data.test_labels
        self.tests = Shards(recipe, device, *tested_on, own_tests, TEST)
        self.shards.keep()
        self.splits: dict[str, Examples] = {}
        self.last_orders: tuple[bytes, Task] | None = None

    def adopt(self, client: int, rows: np.ndarray, own_test: np.ndarray | None) -> None:
        """Add a client, and copy its shard."""
        self.shards.hold(client, rows)
        if own_test is not None:
            self.tests.adopt(client, own_test)

    def examples(self, split: str) -> "Examples":
        """The test or the validation split. On a GPU it is copied to the device on first use."""
        from fedray.training.shards import place

        if split not in self.splits:
            data = self.data
            found = data.test_images, data.test_labels
            if split == "validation":
                found = data.validation_images, data.validation_labels
            self.splits[split] = place(*found, self.trainer.network.device)
        return self.splits[split]

    def read(self, orders: Orders) -> "Task":
        """The task. On a GPU equal bytes give the same message, so it is copied there once."""
        if not isinstance(orders, bytes):
            return replace(unpickled(orders[0]), message=orders[1])
        if not self.trainer.on_device:
            task, message = unpickled(orders)
            return replace(task, message=message)
        if self.last_orders is None or self.last_orders[0] != orders:
            task, message = unpickled(orders)
            for vector in message.values():
                vector.flags.writeable = False  # so that Trainer.on_its_place knows them again
            self.last_orders = orders, replace(task, message=message)
        return self.last_orders[1]


class ClientActor:
    """One process of the population. It is enrolled in a run, trains the run's clients, and is released at its end."""

    def __init__(self, path: list[str], wanted: dict[str, str] | None = None) -> None:
        """`path` is the driver's sys.path, so that this process finds the user's modules where the driver does.

        `wanted` is the software that this node must have, on a cluster whose nodes may join at any time. RuntimeError
        if it has another.
        """
        if wanted and (different := differences(software(), wanted)):
            raise RuntimeError(f"this node has {different}")
        from fedray.training.device import choose_device, settle_on
        from fedray.training.trainer import settle_in

        self.find_modules_in(path)
        refuse_breakpoints()
        settle_in()
        # Arrays from the object store are read-only, and this process does not write to them.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        context = ray.get_runtime_context()
        share = context.get_assigned_resources().get("GPU", 0.0)
        # This is the first call into CUDA, after the fork and after Ray has set this process's GPU. Had a parent called
        # CUDA before the fork, torch would refuse it here (poison_fork in its torch/csrc/cuda/Module.cpp).
        self.device = choose_device(share > 0)
        settle_on(self.device, share)
        self.place: dict[str, Any] = {
            "actor": context.get_actor_id(),
            "node": context.get_node_id(),
            "pid": os.getpid(),
        }
        self.runs: dict[str, Enrolment] = {}
        self.refused: dict[str, ClientError] = {}
        self.began = time.time()

    def find_modules_in(self, path: list[str]) -> None:
        """Search these folders for the user's modules, too."""
        sys.path += [folder for folder in path if folder not in sys.path]

    def where(self, path: list[str]) -> dict[str, Any]:
        """Actor id, node id, process id, device, and the user's modules that were edited since. `path` as at first."""
        self.find_modules_in(path)
        return {**self.place, "device": self.device, "edited": edited(self.began)}

    def printed(self) -> tuple[int, int]:
        """The numbers of characters that this process has printed so far, to stdout and to stderr."""
        from fedray.cluster.printed import printed_here

        return printed_here()

    def enrol(self, run: str, recipe: Recipe, data: NodeData, shards: Rows | None, own_tests: Rows | None) -> None:
        """Take part in a run, with the shards of all clients or, if `shards` is None, with those that are adopted.

        `shards` are rows of the training set. `own_tests` are the rows of the test set that each client is evaluated
        on. ClientError if the model cannot be built.
        """
        try:
            with blamed_on("a model could not be built"):
                self.runs[run] = Enrolment(recipe, data, shards, own_tests, self.device)
        except ClientError as error:
            self.refused[run] = error  # nobody waits for this call in an actor that replaces a lost one
            raise

    def enrolment(self, run: str) -> Enrolment:
        """The enrolment in a run. If it failed, its ClientError is raised again."""
        if run in self.refused:
            raise self.refused[run]
        return self.runs[run]

    def adopt(self, run: str, client: int, rows: np.ndarray, own_test: np.ndarray | None) -> None:
        """Copy a client's shard, to train the client from now on. The rows are as in `enrol`, of this client alone."""
        enrolment = self.enrolment(run)
        if client not in enrolment.shards.held:
            enrolment.adopt(client, rows, own_test)

    def release(self, run: str) -> None:
        self.runs.pop(run, None)
        self.refused.pop(run, None)

    def holds(self) -> list[str]:
        """The runs that this actor is enrolled in."""
        return sorted(self.runs)

    def train(
        self,
        run: str,
        orders: Orders,
        clients: list[int],
        summed: bool,
        errand: str,
        weights: list[float] | None,
        inputs: int,
        *vectors: Vectors,
    ) -> tuple[Any, ...]:
        """Train clients by `orders`. `vectors` are first the task's `inputs`, then the clients' memories.

        The driver may stop all calls of an `errand` (recall.py).

        Returns first, pickled, their reports, the vectors if they are small, and the call's seconds; then the vectors
        if they are large, in one object or, where updates stay apart, in one for each client; then the new memories.
        These are separate objects. The first is small and shows that the call succeeded. Large vectors stay in the
        object store until their turn. Memories never pass through the driver.
        """
        from fedray.training.block import train_block

        began = time.perf_counter()
        enrolment = self.enrolment(run)
        task = enrolment.read(orders)
        enrolment.trainer.heed_by(heeding(errand))
        if inputs or weights is not None:
            of_each = dict(zip(clients, weights, strict=True)) if weights is not None else None
            task = replace(task, inputs=vectors[:inputs], weights=of_each)
        memories = vectors[inputs:]
        shards = enrolment.shards.of
        try:
            trained, new = train_block(
                enrolment.trainer, task, clients, shards, memories or [{}] * len(clients), summed
            )
        except BaseException:
            enrolment.last_orders = enrolment.trainer.last_received = None  # a call that was stopped frees all it held
            raise
        reports = [replace(report, **self.place) for report in trained.reports]
        made, small = Trained([], trained.sum, trained.each), trained.num_bytes <= BY_VALUE
        first = pickle.dumps((reports, made if small else None, time.perf_counter() - began), protocol=5)
        apart: list[Any] = [None if small else made]
        if not task.aggregator.linear:
            each = iter(trained.each)
            apart = [next(each) if report.status == "ok" and not small else None for report in reports]
        return first, *apart, *(new if memories else ())

    def evaluate(
        self, run: str, state: Vectors, split: str, first: int, last: int, top_k: int | None, scores: bool = False
    ) -> Measured:
        """Evaluate the state's model on the images [first, last) of the test or the validation split."""
        from fedray.training.evaluate import evaluate

        enrolment = self.enrolment(run)
        images, labels = enrolment.examples(split)
        return evaluate(enrolment.trainer, state, images[first:last], labels[first:last], top_k, scores)

    def evaluate_clients(self, run: str, orders: Orders, clients: list[int], *memories: Vectors) -> list[Scores]:
        """Evaluate the model that each client would use on test images of its own. `orders` are as in `train`."""
        from fedray.training.block import evaluate_block

        enrolment = self.enrolment(run)
        enrolment.trainer.heed_by(lambda: None)
        known: Sequence[Vectors] = memories or [{}] * len(clients)
        shard, test = enrolment.shards.of, enrolment.tests.of
        return evaluate_block(enrolment.trainer, enrolment.read(orders), clients, shard, test, known)
