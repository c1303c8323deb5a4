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
from fedray.cluster.dispatch import Occupancy, Slot, Ticket
from fedray.cluster.pool import Pool
from fedray.cluster.resources import Plan
from fedray.data import Dataset
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
        self.run = f"run-{next(self.ids)}"
        self.pool, self.plan, self.recipe, self.blocks = pool, plan, recipe, blocks
        self.dispatcher, self.test_count = pool.dispatcher, len(dataset.test_labels)
        self.shards, self.own_tests = shards, own_tests
        self.memory_refs: dict[int, Any] = {}
        self.learned: tuple[int, dict[int, Any]] = (0, {})  # the last round, and the references it changed
        self.data: Any = pool.share(dataset)
        self.rows_of_all: Any = None
        if plan.packed:
            self.rows_of_all = [ray.put(join_rows(shards)), ray.put(join_rows(own_tests)) if own_tests else None]
        self.sizes: np.ndarray = np.array([len(shard) for shard in shards])
        self.slots = list(pool.provide(plan))
        for slot in self.slots:
            slot.respawn = self.respawn
        enrolments = [Ticket(partial(self.enrol_at, slot), [slot]) for slot in self.slots]
        self.dispatcher.submit(enrolments)
        for enrolment in enrolments:
            self.dispatcher.wait(enrolment)
        self.retried = self.dispatcher.retries

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def device(self) -> str:
        return str(self.slots[0].where["device"])

    def enrol_at(self, slot: Slot, actor: Any) -> list[Any]:
        if self.plan.packed:
            return [actor.enrol.remote(self.run, self.recipe, self.data, *self.rows_of_all, None)]
        client = self.slots.index(slot)
        own_test = join_rows([self.own_tests[client]]) if self.own_tests else None
        return [
            actor.enrol.remote(self.run, self.recipe, self.data, join_rows([self.shards[client]]), own_test, client)
        ]

    def respawn(self, slot: Slot) -> None:
        """A new actor in a lost one's place, enrolled before any call that is queued behind."""
        self.pool.respawn(slot)
        self.enrol_at(slot, slot.handle)

    def train(self, algorithm: Any, cohort: list[int], message: Vectors, t: int, lr: float) -> Updates:
        began = time.perf_counter()
        occupancy = self.dispatcher.occupancy = Occupancy(self.plan.lanes)
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
        before, self.retried = self.retried, self.dispatcher.retries
        called = sum(ticket.result[2] for block_tickets in tickets for ticket in block_tickets)
        seconds = split(time.perf_counter() - began, occupancy, sum(r.seconds for r in updates.reports), called)
        return replace(updates, retries=self.retried - before, seconds=seconds)

    def ticket(self, clients: list[int], orders: Any, t: int, lr: float, summed: bool, remembers: bool) -> Ticket:
        memories = [self.memory_refs.get(client, {}) for client in clients] if remembers else []

        def call(actor: Any) -> list[Any]:
            train = actor.train.options(num_returns=2 + len(memories))
            return list(train.remote(self.run, orders, clients, summed, t, lr, *memories))

        slots = self.slots if self.plan.packed else [self.slots[clients[0]]]
        return Ticket(call, slots, cost=float(self.sizes[clients].sum()))

    def trained(self, ticket: Ticket) -> Trained:
        reports, vectors, _ = self.dispatcher.wait(ticket)
        vectors = vectors or self.dispatcher.fetch(ticket, 1)
        ticket.refs[:2] = [None, None]  # the object store may let go of them
        return Trained(reports, vectors.sum, vectors.each)

    def evaluate(self, state: Vectors) -> tuple[float, float]:
        sent = ray.put(state)

        def ticket(first: int) -> Ticket:
            last = min(first + EVALUATION_CALL, self.test_count)
            return Ticket(lambda actor: [actor.evaluate.remote(self.run, sent, first, last)], self.slots)

        tickets = [ticket(first) for first in range(0, self.test_count, EVALUATION_CALL)]
        self.dispatcher.submit(tickets)
        return mean_of_batches(
            itertools.chain.from_iterable(self.dispatcher.wait(ticket) for ticket in tickets), self.test_count
        )

    def evaluate_clients(self, algorithm: Any, message: Vectors, t: int, lr: float) -> list[Scores]:
        sent, remembers = as_sent(algorithm, message), algorithm.remembers
        known = {**self.memory_refs, **self.learned[1]}

        def ticket(clients: list[int]) -> Ticket:
            memories = [known.get(client, {}) for client in clients] if remembers else []
            slots = self.slots if self.plan.packed else [self.slots[clients[0]]]
            cost = float(self.sizes[clients].sum())
            return Ticket(
                lambda actor: [actor.evaluate_clients.remote(self.run, sent, clients, t, lr, *memories)], slots, cost
            )

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
        # After an error some are busy with what nobody waits for any more; others may still be coming up again.
        unfit = [slot for slot in self.slots if slot.tickets or slot.starting is not None]
        self.dispatcher.forget(self.slots)
        self.pool.give_up(unfit)
        for slot in self.slots:
            slot.respawn = self.pool.respawn
            slot.handle.release.remote(self.run)
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
