"""The population without Ray: all clients train one after another in this process, for tests and debugging."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedray.core.scores import Performance, performance
from fedray.core.updates import Event, Scores, Seconds, Trained, Updates, Vectors, cut
from fedray.data.dataset import Dataset, Split
from fedray.data.skew import TEST
from fedray.server.gathering import gather, remembered
from fedray.server.memories import Memories
from fedray.server.population import Where, check_where
from fedray.server.task import Handle, Task
from fedray.training.block import evaluate_block, train_block
from fedray.training.evaluate import evaluate
from fedray.training.shards import Shards, place
from fedray.training.spec import Recipe
from fedray.training.trainer import Trainer, settle_in
from fedray.training.transfer import Examples


class InProcessPopulation:
    """One trainer, all shards, one thread: the reference that the Ray population must equal bit for bit."""

    def __init__(
        self,
        dataset: Dataset,
        shards: list[np.ndarray],
        recipe: Recipe,
        blocks: int,
        own_tests: list[np.ndarray] | None = None,
        device: str = "cpu",
    ):
        """`own_tests` are the rows on which each client is evaluated, of the test set unless recipe.tested_on_own."""
        settle_in()
        self.dataset, self.blocks = dataset, blocks
        self.sizes = np.array([len(rows) for rows in shards])
        self.trainer = Trainer(recipe, device)
        self.shards = Shards(recipe, device, dataset.train_images, dataset.train_labels, shards)
        tested_on = dataset.train_images, dataset.train_labels
        if not recipe.tested_on_own:
            tested_on = dataset.test_images, dataset.test_labels
        self.tests = Shards(recipe, device, *tested_on, own_tests or [], TEST)
        self.splits: dict[Split, Examples] = {}
        self.memory: Memories[Vectors] = Memories()
        self.place: dict[str, Any] = {"actor": "in-process", "node": socket.gethostname(), "pid": os.getpid()}

    def __len__(self) -> int:
        return len(self.sizes)

    def submit(self, task: Task, clients: Sequence[int]) -> Handle:
        """Hand out a task. Its clients are trained when it is taken."""
        handle = Handle(task, list(clients))
        self.memory.hand_out(handle)
        return handle

    def take(self, handle: Handle, where: Where = "driver") -> Updates:
        check_where(handle.task, where)
        self.memory.take(handle)
        began, task = time.perf_counter(), handle.task
        learned: dict[int, Vectors] = {}

        def trained() -> Iterator[list[Trained]]:
            for block in cut(handle.clients, self.blocks):
                memories = [self.memory.of(client) or {} for client in block]
                part, new = train_block(
                    self.trainer, task, block, self.shards.of, memories, summed=task.aggregator.linear
                )
                learned.update(remembered(task, block, part.reports, new))
                yield [replace(part, reports=[replace(report, **self.place) for report in part.reports])]

        updates = gather(task, trained())
        self.memory.learn(handle, learned)
        train = sum(report.seconds or 0.0 for report in (*updates.reports, *updates.missing))
        return replace(updates, seconds=Seconds(train=train, aggregate=time.perf_counter() - began - train))

    def keep(self, handle: Handle, t: int | None = None) -> None:
        self.memory.keep(handle, t)

    def discard(self, handle: Handle) -> None:
        self.memory.discard(handle)

    def evaluate(
        self, state: Vectors, split: Split = "test", top_k: int | None = None, scores: bool = False
    ) -> Performance:
        if split not in self.splits:
            self.splits[split] = place(*self.dataset.examples(split), self.trainer.network.device)
        measured, recipe = evaluate(self.trainer, state, *self.splits[split], top_k, scores), self.trainer.recipe
        return performance([measured], self.dataset.examples(split)[1], recipe.classes, recipe.kind.targets)

    def evaluate_clients(self, task: Task) -> list[Scores]:
        everyone = range(len(self))
        memories = [self.memory.of(client) or {} for client in everyone]
        return evaluate_block(self.trainer, task, everyone, self.shards.of, self.tests.of, memories)

    def rows(self) -> dict[str, Any]:
        n = len(self)
        place = {name: [value] * n for name, value in self.place.items()}
        return {"client": range(n), **place, "num_cpus": [0.0] * n, "num_gpus": [0.0] * n, "num_examples": self.sizes}

    def events(self) -> list[Event]:
        return []

    def memories(self, t: int, since: int | None = None) -> Iterator[tuple[int, Vectors]]:
        return iter(self.memory.after(t, since))

    def count_memories(self, t: int, since: int | None = None) -> int:
        return len(self.memory.after(t, since))

    def remember(self, client: int, memory: Vectors) -> None:
        self.memory.remember(client, memory)

    def close(self) -> None:
        self.memory.clear()
