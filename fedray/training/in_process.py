"""The population without Ray: all clients train one after another in this process, for tests and debugging."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fedray.core.scores import Performance, performance
from fedray.core.updates import Event, Scores, Seconds, Trained, Updates, Vectors, cut, gather, remembered
from fedray.data.dataset import Dataset, Split
from fedray.data.skew import TEST
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
        """`own_tests` are the rows of the test set on which each client is evaluated."""
        settle_in()
        self.dataset, self.blocks = dataset, blocks
        self.sizes = np.array([len(rows) for rows in shards])
        self.trainer = Trainer(recipe, device)
        self.shards = Shards(recipe, device, dataset.train_images, dataset.train_labels, shards)
        self.tests = Shards(recipe, device, dataset.test_images, dataset.test_labels, own_tests or [], TEST)
        self.splits: dict[Split, Examples] = {}
        self.remembered: dict[int, Vectors] = {}
        self.learned: tuple[int, dict[int, Vectors]] = (0, {})  # the last round, and the memories that it changed
        self.place: dict[str, Any] = {"actor": "in-process", "node": socket.gethostname(), "pid": os.getpid()}

    def __len__(self) -> int:
        return len(self.sizes)

    def train(
        self, algorithm: Any, cohort: list[int], message: Vectors, t: int, lr: float, drop: bool = False
    ) -> Updates:
        began = time.perf_counter()
        if self.learned[0] != t:
            self.remembered.update(self.learned[1])
        learned: dict[int, Vectors] = {}

        def trained() -> Iterator[list[Trained]]:
            for block in cut(cohort, self.blocks):
                memories = [self.remembered.get(client, {}) for client in block]
                part, new = train_block(
                    self.trainer, algorithm, block, self.shards.of, message, memories, t, lr, summed=algorithm.linear
                )
                if algorithm.remembers:
                    learned.update(remembered(block, part.reports, new))
                yield [replace(part, reports=[replace(report, **self.place) for report in part.reports])]

        updates = gather(algorithm, trained())
        self.learned = (t, learned)
        train = sum(report.seconds or 0.0 for report in (*updates.reports, *updates.missing))
        return replace(updates, seconds=Seconds(train=train, aggregate=time.perf_counter() - began - train))

    def evaluate(self, state: Vectors, split: Split = "test", top_k: int | None = None) -> Performance:
        if split not in self.splits:
            self.splits[split] = place(*self.dataset.examples(split), self.trainer.network.device)
        measured = evaluate(self.trainer, state, *self.splits[split], top_k)
        return performance([measured], self.dataset.examples(split)[1], self.trainer.recipe.classes)

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        memories = dict(self.memories(t))
        return evaluate_block(
            self.trainer,
            algorithm,
            range(len(self)),
            self.shards.of,
            self.tests.of,
            message,
            [memories.get(client, {}) for client in range(len(self))],
            t,
            lr,
        )

    def rows(self) -> dict[str, Any]:
        n = len(self)
        place = {name: [value] * n for name, value in self.place.items()}
        return {"client": range(n), **place, "num_cpus": [0.0] * n, "num_gpus": [0.0] * n, "num_examples": self.sizes}

    def events(self) -> list[Event]:
        return []

    def memories(self, t: int) -> Iterator[tuple[int, Vectors]]:
        last, learned = self.learned
        return iter(sorted({**self.remembered, **(learned if last <= t else {})}.items()))

    def remember(self, client: int, memory: Vectors) -> None:
        self.remembered[client] = memory

    def close(self) -> None:
        self.remembered.clear()
