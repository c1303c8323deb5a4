"""The population as Ray actors: one for each client, or packed."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import ray

from fedray.cluster.actor import BY_VALUE, join_rows
from fedray.cluster.dispatch import Occupancy, Slot, Ticket, Traffic
from fedray.cluster.pool import Pool
from fedray.cluster.resources import Plan
from fedray.data import Dataset, Split
from fedray.recipe import EVALUATION_BATCH, Recipe
from fedray.updates import Scores, Seconds, Trained, Updates, Vectors, cut, gather, mean_of_batches, num_bytes

EVALUATION_CALL = 4 * EVALUATION_BATCH  # images a call


class RayPopulation:
    """All clients of a run. An actor serves its own client, or, packed, any actor serves any client."""

    ids = itertools.count()

    def __init__(
        self,
        pool: Pool,
        plan: Plan,
        dataset: Dataset,
        shards: list[np.ndarray],
        recipe: Recipe,
        blocks: int,
        own_tests: list[np.ndarray] | None = None,
    ):
        """`own_tests` are the rows of the test set on which each client is evaluated."""
        rank = next(self.ids)
        self.run, self.traffic = f"run-{rank}", Traffic(rank)
        self.pool, self.plan, self.recipe, self.blocks = pool, plan, recipe, blocks
        self.dispatcher = pool.dispatcher
        self.counts = {"test": len(dataset.test_labels), "validation": len(dataset.validation_labels)}
        self.shards, self.own_tests = shards, own_tests
        self.memory_refs: dict[int, Any] = {}
        self.learned: tuple[int, dict[int, Any]] = (0, {})  # the last round, and the references it changed
        self.sizes: np.ndarray = np.array([len(shard) for shard in shards])
        self.slots, self.data = pool.claim(self.run, plan, dataset)
        try:
            self.rows_of_all: Any = None
            if plan.packed:
                self.rows_of_all = [ray.put(join_rows(shards)), ray.put(join_rows(own_tests)) if own_tests else None]
            self.enrol()
        except BaseException:
            self.close()
            raise
        self.retried = self.traffic.retries

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def device(self) -> str:
        return str(self.slots[0].where["device"])

    def enrol(self) -> None:
        """Have every actor take part, and any that comes in the place of a lost one."""
        calls = [partial(self.enrol_at, slot) for slot in self.slots]
        for slot, call in zip(self.slots, calls, strict=True):
            slot.enrolments[self.run] = call
        tickets = [Ticket(call, [slot], self.traffic) for slot, call in zip(self.slots, calls, strict=True)]
        self.dispatcher.submit(tickets)
        for ticket in tickets:
            self.dispatcher.wait(ticket)

    def enrol_at(self, slot: Slot, actor: Any) -> list[Any]:
        if self.plan.packed:
            return [actor.enrol.remote(self.run, self.recipe, self.data, *self.rows_of_all, None)]
        client = self.slots.index(slot)
        own_test = join_rows([self.own_tests[client]]) if self.own_tests else None
        return [
            actor.enrol.remote(self.run, self.recipe, self.data, join_rows([self.shards[client]]), own_test, client)
        ]

    def train(self, algorithm: Any, cohort: list[int], message: Vectors, t: int, lr: float) -> Updates:
        began = time.perf_counter()
        occupancy = self.traffic.occupancy = Occupancy(self.plan.lanes)
        self.memory_refs.update(self.learned[1])
        sent = as_sent(algorithm, message)
        summed, remembers = self.plan.packed and algorithm.linear, algorithm.remembers
        hands = cut(cohort, self.blocks)
        calls = [[block] if self.plan.packed else [[client] for client in block] for block in hands]
        tickets = [
            [self.ticket(clients, sent, t, lr, summed, remembers) for clients in block_calls] for block_calls in calls
        ]
        self.dispatcher.submit([ticket for block_tickets in tickets for ticket in block_tickets])
        updates = gather(algorithm, ([self.trained(ticket) for ticket in block] for block in tickets))
        learned: dict[int, Any] = {}
        if remembers:
            for block_calls, block_tickets in zip(calls, tickets, strict=True):
                for clients, ticket in zip(block_calls, block_tickets, strict=True):
                    learned.update(zip(clients, ticket.refs[2:], strict=True))
        self.learned = (t, learned)
        before, self.retried = self.retried, self.traffic.retries
        called = sum(ticket.result[2] for block_tickets in tickets for ticket in block_tickets)
        seconds = split(time.perf_counter() - began, occupancy, sum(r.seconds for r in updates.reports), called)
        return replace(updates, retries=self.retried - before, seconds=seconds)

    def ticket(self, clients: list[int], orders: Any, t: int, lr: float, summed: bool, remembers: bool) -> Ticket:
        memories = [self.memory_refs.get(client, {}) for client in clients] if remembers else []

        def call(actor: Any) -> list[Any]:
            train = actor.train.options(num_returns=2 + len(memories))
            return list(train.remote(self.run, orders, clients, summed, t, lr, *memories))

        slots = self.slots if self.plan.packed else [self.slots[clients[0]]]
        return Ticket(call, slots, self.traffic, cost=float(self.sizes[clients].sum()))

    def trained(self, ticket: Ticket) -> Trained:
        reports, vectors, _ = self.dispatcher.wait(ticket)
        vectors = vectors or self.dispatcher.fetch(ticket, 1)
        ticket.refs[:2] = [None, None]  # the object store may let go of them
        return Trained(reports, vectors.sum, vectors.each)

    def evaluate(self, state: Vectors, split: Split = "test") -> tuple[float, float]:
        sent, count = ray.put(state), self.counts[split]

        def ticket(first: int) -> Ticket:
            last = min(first + EVALUATION_CALL, count)
            call = lambda actor: [actor.evaluate.remote(self.run, sent, split, first, last)]  # noqa: E731
            return Ticket(call, self.slots, self.traffic)

        tickets = [ticket(first) for first in range(0, count, EVALUATION_CALL)]
        self.dispatcher.submit(tickets)
        return mean_of_batches(itertools.chain.from_iterable(self.dispatcher.wait(ticket) for ticket in tickets), count)

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        sent, remembers = as_sent(algorithm, message), algorithm.remembers
        known = {**self.memory_refs, **self.learned[1]}

        def ticket(clients: list[int]) -> Ticket:
            memories = [known.get(client, {}) for client in clients] if remembers else []
            slots = self.slots if self.plan.packed else [self.slots[clients[0]]]
            cost = float(self.sizes[clients].sum())
            call = lambda actor: [actor.evaluate_clients.remote(self.run, sent, clients, t, lr, *memories)]  # noqa: E731
            return Ticket(call, slots, self.traffic, cost)

        calls = 4 * len(self.slots) if self.plan.packed else len(self)
        tickets = [ticket(clients) for clients in cut(list(range(len(self))), calls)]
        self.dispatcher.submit(tickets)
        return list(itertools.chain.from_iterable(self.dispatcher.wait(ticket) for ticket in tickets))

    def rows(self) -> dict[str, Any]:
        """Packed, a client counts against the actor at its place in line, though any actor may train it."""
        place = np.arange(len(self)) * len(self.slots) // len(self)
        sharing = np.bincount(place)[place]
        where = {name: np.array([slot.where[name] for slot in self.slots])[place] for name in ("actor", "node", "pid")}
        return {
            "client": np.arange(len(self)),
            **where,
            "num_cpus": self.plan.num_cpus / sharing,
            "num_gpus": self.plan.num_gpus / sharing,
            "num_examples": self.sizes,
        }

    def memories(self, t: int) -> Iterator[tuple[int, Vectors]]:
        last, learned = self.learned
        for client, ref in sorted({**self.memory_refs, **(learned if last <= t else {})}.items(), key=itemgetter(0)):
            yield client, ray.get(ref)

    def remember(self, client: int, memory: Vectors) -> None:
        self.memory_refs[client] = ray.put(memory)

    def close(self) -> None:
        self.memory_refs, self.learned = {}, (0, {})
        self.dispatcher.withdraw(self.traffic)
        self.pool.leave(self.run, self.slots)
        self.data = self.rows_of_all = None


def as_sent(algorithm: Any, message: Vectors) -> Any:
    """What a call gets of the two: themselves, pickled, where they are small, a reference to them otherwise."""
    orders = (algorithm, message)
    return ray.cloudpickle.dumps(orders, protocol=5) if num_bytes(message) <= BY_VALUE else ray.put(orders)


def split(elapsed: float, occupancy: Occupancy, trained: float, called: float) -> Seconds:
    """Where `elapsed` seconds of a cohort's training went.

    The actors spent `trained` seconds on local training, all of them together, and `called` in the calls that it was
    part of. What the driver did after the last call had ended was summing.
    """
    train, idle = trained / occupancy.lanes, occupancy.free / occupancy.lanes
    aggregate = (called - trained) / occupancy.lanes + elapsed - (occupancy.changed - occupancy.opened)
    return Seconds(train, aggregate, idle, transfer=elapsed - train - idle - aggregate)
