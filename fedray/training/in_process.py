"""The population without Ray: every client trained one after another in this process, for tests and debugging."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from fedray.core.scores import Performance, performance
from fedray.core.updates import Event, Scores, Seconds, Trained, Updates, Vectors, cut, gather, remembered
from fedray.data.dataset import Dataset, Split
from fedray.data.skew import TEST
from fedray.training.block import evaluate_block, train_block
from fedray.training.shards import Kept, keep
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
        self.dataset, self.shards, self.blocks, self.own_tests = dataset, shards, blocks, own_tests or []
        self.trainer = Trainer(recipe, device)
        self.splits: dict[Split, Examples] = {}
        self.remembered: dict[int, Vectors] = {}
        self.learned: tuple[int, dict[int, Vectors]] = (0, {})  # the last round, and what it changed
        self.place: dict[str, Any] = {"actor": "in-process", "node": socket.gethostname(), "pid": os.getpid()}

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(rows) for rows in self.shards])

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
                    self.trainer, algorithm, block, self.shard, message, memories, t, lr, summed=algorithm.linear
                )
                if algorithm.remembers:
                    learned.update(remembered(block, part.reports, new))
                yield [replace(part, reports=[replace(report, **self.place) for report in part.reports])]

        updates = gather(algorithm, trained())
        self.learned = (t, learned)
        train = sum(report.seconds or 0.0 for report in (*updates.reports, *updates.missing))
        return replace(updates, seconds=Seconds(train=train, aggregate=time.perf_counter() - began - train))

    @cached_property
    def kept(self) -> Kept | None:
        """All shards on the trainer's device; None where they stay on the host."""
        return keep(self.trainer, self.dataset.train_images, self.dataset.train_labels, self.shards)

    @cached_property
    def kept_tests(self) -> Kept | None:
        return keep(self.trainer, self.dataset.test_images, self.dataset.test_labels, self.own_tests, TEST)

    def shard(self, client: int) -> Examples:
        if self.kept:
            return self.kept.of(client)
        rows = self.shards[client]
        images, labels = self.dataset.train_images[rows], self.dataset.train_labels[rows]
        return self.trainer.recipe.seen_by(client, images), labels

    def test(self, client: int) -> Examples:
        if self.kept_tests:
            return self.kept_tests.of(client)
        rows = self.own_tests[client]
        images, labels = self.dataset.test_images[rows], self.dataset.test_labels[rows]
        return self.trainer.recipe.seen_by(client, images, TEST), labels

    def evaluate(self, state: Vectors, split: Split = "test", top_k: int | None = None) -> Performance:
        if split not in self.splits:
            self.splits[split] = self.trainer.place(*self.dataset.examples(split))
        measured = self.trainer.evaluate(state, *self.splits[split], top_k)
        return performance([measured], self.dataset.examples(split)[1], self.trainer.recipe.classes)

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        memories = dict(self.memories(t))
        return evaluate_block(
            self.trainer,
            algorithm,
            range(len(self)),
            self.shard,
            self.test,
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
