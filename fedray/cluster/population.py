"""The population as Ray actors: one for each client, or packed."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import ray

from fedray.cluster.actor import BY_VALUE, join_rows
from fedray.cluster.dispatch import first_line, look
from fedray.cluster.plan import Plan
from fedray.cluster.pool import Pool
from fedray.cluster.tickets import Errand, Occupancy, Patience, Slot, Ticket, Traffic, Use
from fedray.core.errors import LostActorError, LostStateError
from fedray.core.scores import Performance, performance
from fedray.core.updates import (
    HAPPENED,
    Event,
    Scores,
    Seconds,
    Trained,
    Updates,
    Vectors,
    cut,
    num_bytes,
)
from fedray.data.dataset import Dataset, Split
from fedray.server.gathering import gather, remembered
from fedray.server.memories import Memories
from fedray.server.participation import absentee
from fedray.server.population import Where, check_where
from fedray.server.task import Handle, Task
from fedray.training.spec import EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU, Recipe

EVALUATION_CALL, EVALUATION_CALL_ON_GPU = 4 * EVALUATION_BATCH, 4 * EVALUATION_BATCH_ON_GPU
"""Images in a call, the second if GPUs are reserved. Both are whole batches on a CPU, so its bits are the same."""


class RayPopulation:
    """All clients of a run. Each actor serves its own client or, if clients are packed, any actor serves any client."""

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
        patience: Patience = Patience(),  # noqa: B008  it is frozen
        notice: Callable[[str], None] = lambda text: None,
    ):
        """`own_tests` are the rows of the test set that each client is evaluated on.

        `notice` is called with a line for each event of the actors.
        """
        rank = next(self.ids)
        self.run, self.traffic, self.notice = f"run-{rank}", Traffic(rank, patience), notice
        self.pool, self.plan, self.recipe, self.blocks = pool, plan, recipe, blocks
        self.dispatcher = pool.dispatcher
        self.labels = {"test": dataset.test_labels, "validation": dataset.validation_labels}
        self.shards, self.own_tests = shards, own_tests
        self.told = 0  # how many of the traffic's events were reported
        self.memory: Memories[Any] = Memories()  # references
        self.handles: list[RayHandle] = []  # those that are out, the oldest first
        self.sizes: np.ndarray = np.array([len(shard) for shard in shards])
        self.slots, self.data = pool.claim(self.run, self.traffic, plan, dataset)
        try:
            self.rows_of_all: Any = None
            if plan.packed:
                self.rows_of_all = [ray.put(join_rows(shards)), ray.put(join_rows(own_tests)) if own_tests else None]
            self.enrol()
        except BaseException:
            self.close()
            raise
        if len(self.devices) > 1:
            notice("torch finds a GPU for some actors only, so clients train on GPUs and on CPUs, to different bits")

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def device(self) -> str:
        return max(self.devices)

    @property
    def devices(self) -> set[str]:
        """The devices of the actors. There are two if torch finds a GPU on some nodes only."""
        return {str(slot.where["device"]) for slot in self.slots if slot.where}

    def enrol(self) -> None:
        """Enrol every actor in the run, and let the dispatcher enrol those that replace lost ones."""
        uses, errand = [self.use(slot) for slot in self.slots], Errand(self.traffic)
        tickets = [
            Ticket(use.enrol, [slot], errand, kind="enrol", within=self.pool.start_timeout)
            for slot, use in zip(self.slots, uses, strict=True)
            if not slot.gone
        ]
        self.dispatcher.submit(tickets)
        for ticket in tickets:
            try:
                self.wait(ticket)
            except LostActorError:
                if not ticket.slots[0].gone or all(slot.gone for slot in self.slots):
                    raise

    def use(self, slot: Slot) -> Use:
        """Use the slot for this run from now on."""
        slot.uses[self.run] = use = Use(self.traffic, partial(self.enrol_at, slot))
        return use

    def enrol_at(self, slot: Slot, actor: Any) -> list[Any]:
        everybody = self.rows_of_all if self.plan.packed else (None, None)
        enrolled = actor.enrol.remote(self.run, self.recipe, self.data, *everybody)
        return [enrolled] if self.plan.packed else [enrolled, self.adopt(actor, self.slots.index(slot))]

    def adopt(self, actor: Any, client: int) -> Any:
        """Give a client's shard to an actor: its own, or one that stands in for an actor that is gone."""
        own_test = self.own_tests[client] if self.own_tests else None
        return actor.adopt.remote(self.run, client, self.shards[client], own_test)

    def slots_for(self, clients: list[int]) -> list[Slot]:
        return self.slots if self.plan.packed else [self.slots[clients[0]]]

    def prepare(self, actor: Any, clients: list[int]) -> None:
        """Prepare an actor for a call with these clients: if it is another client's, it adopts this one."""
        if not self.plan.packed and actor is not self.slots[clients[0]].handle:
            self.adopt(actor, clients[0])

    def wait(self, ticket: Ticket) -> Any:
        """Wait for a call's first result, and report events of actors meanwhile."""
        try:
            return self.dispatcher.wait(ticket, self.tell)
        finally:
            self.tell()

    def tell(self) -> None:
        """Report the events since the last report to `notice`."""
        while self.told < len(self.traffic.events):
            event, self.told = self.traffic.events[self.told], self.told + 1
            if event.kind in HAPPENED:
                self.notice(describe(event))

    def events(self) -> list[Event]:
        self.tell()
        with self.dispatcher.lock:
            happened, self.traffic.events, self.told = self.traffic.events, [], 0
        return happened

    def refill(self) -> None:
        """Add actors on nodes that have joined since the last round."""
        added = self.pool.refill(self.slots, self.plan.most)
        lanes = max(self.plan.most_lanes, self.dispatcher.lanes)
        self.plan = replace(self.plan, actors=self.plan.actors + len(added), most_lanes=lanes)
        for slot in added:
            self.slots.append(slot)
            self.use(slot).enrol(slot.handle)

    def submit(self, task: Task, clients: Sequence[int]) -> "RayHandle":
        began = time.perf_counter()
        handle = RayHandle(task, list(clients), began=began)
        self.memory.hand_out(handle)
        try:
            self.refill()
            calls = [
                [block] if self.plan.packed else [[client] for client in block]
                for block in cut(handle.clients, self.blocks)
            ]
            lanes = max(1, min(self.plan.lanes, sum(map(len, calls))))  # one that no call could use is not idle
            handle.errand, handle.orders = Errand(self.traffic, lanes), self.orders_for(task)
            handle.tickets = [[self.ticket(handle, part) for part in block] for block in calls]
        except BaseException:
            self.memory.discard(handle)
            raise
        self.handles.append(handle)
        self.dispatcher.submit([ticket for block in handle.tickets for ticket in block])
        return handle

    def take(self, handle: Handle, where: Where = "driver") -> Updates:
        assert isinstance(handle, RayHandle)
        check_where(handle.task, where)
        self.memory.take(handle)
        updates = gather(
            handle.task, ([self.trained(ticket, handle.task, where) for ticket in block] for block in handle.tickets)
        )
        tickets = [ticket for block in handle.tickets for ticket in block]
        handle.tickets = []
        answered = [ticket for ticket in tickets if not ticket.error]
        learned: dict[int, Any] = {}
        for ticket in answered:
            first = 1 + vectors_apart(handle.task, ticket.clients)
            learned.update(remembered(handle.task, ticket.clients, ticket.result[0], ticket.refs[first:]))
        self.memory.learn(handle, learned)
        self.traffic.learn()
        called = sum(ticket.result[2] for ticket in answered)
        trained = sum(r.seconds or 0.0 for r in (*updates.reports, *updates.missing))
        seconds = split(time.perf_counter() - handle.began, handle.errand.occupancy, trained, called)
        return replace(updates, retries=handle.errand.retries, seconds=seconds)

    def keep(self, handle: Handle, t: int | None = None) -> None:
        self.memory.keep(handle, t)
        self.close_handle(handle)

    def discard(self, handle: Handle) -> None:
        self.memory.discard(handle)
        self.close_handle(handle)

    def close_handle(self, handle: Handle) -> None:
        """Cancel what of a handle was not taken, and let go of all that it held."""
        assert isinstance(handle, RayHandle)
        if handle in self.handles:
            self.handles.remove(handle)
            if handle.tickets:
                self.dispatcher.cancel(handle.errand)
            handle.tickets, handle.orders = [], None

    def orders_for(self, task: Task) -> Any:
        """The orders of a call, made once for handles in flight with the same message."""
        for other in self.handles[-1:]:
            if all(getattr(task, name) is getattr(other.task, name) for name in ORDERED):
                return other.orders
        return as_sent(task)

    def ticket(self, handle: "RayHandle", clients: list[int]) -> Ticket:
        """The call that trains these clients."""
        task, orders, summed = handle.task, handle.orders, self.plan.packed and handle.task.aggregator.linear
        memories = [self.memory.of(client) or {} for client in clients] if task.remembers else []
        weights = [task.weights[client] for client in clients] if task.weights is not None else None
        count, errand = 1 + vectors_apart(task, clients) + len(memories), handle.errand.name

        def call(actor: Any) -> list[Any]:
            self.prepare(actor, clients)
            train = actor.train.options(num_returns=count)
            return list(
                train.remote(
                    self.run, orders, clients, summed, errand, weights, len(task.inputs), *task.inputs, *memories
                )
            )

        return self.ticket_for("train", clients, call, handle.errand, task.drop)

    def ticket_for(
        self, kind: str, clients: list[int], call: Callable[[Any], list[Any]], errand: Errand, drop: bool = False
    ) -> Ticket:
        """A ticket for a call with these clients, on an actor that serves them, or on any other once that is gone."""
        cost = float(self.sizes[clients].sum())
        slots = self.slots_for(clients)
        ticket = Ticket(call, slots, errand, kind, cost, clients=clients, drop=drop)
        ticket.elsewhere = lambda: self.slots
        return ticket

    def trained(self, ticket: Ticket, task: Task, where: Where) -> Trained:
        """The result of a call. Its vectors are read one call at a time, so that the object store can free them."""
        try:
            reports, vectors, _ = self.wait(ticket)
            counted = [i for i, report in enumerate(reports) if report.status == "ok"]
            if task.aggregator.linear:
                vectors = vectors or self.dispatcher.fetch(ticket, 1)
            elif where == "actors":
                apart: list[Any] = (
                    [ray.put(each) for each in vectors.each] if vectors else [ticket.refs[1 + i] for i in counted]
                )
                vectors = Trained([], each=apart)
            else:
                vectors = vectors or Trained([], each=[self.dispatcher.fetch(ticket, 1 + i) for i in counted])
        except LostActorError:
            if not ticket.drop:
                raise
            return Trained([absentee(client, int(self.sizes[client]), "lost") for client in ticket.clients])
        held = 1 + vectors_apart(task, ticket.clients)
        ticket.refs[:held] = [None] * held  # so that the object store can free them
        return Trained(reports, vectors.sum, vectors.each)

    def evaluate(
        self, state: Vectors, split: Split = "test", top_k: int | None = None, scores: bool = False
    ) -> Performance:
        sent, labels, errand = ray.put(state), self.labels[split], Errand(self.traffic, self.plan.lanes)
        size = EVALUATION_CALL_ON_GPU if self.plan.num_gpus else EVALUATION_CALL

        def ticket(first: int) -> Ticket:
            last = min(first + size, len(labels))
            call = lambda actor: [actor.evaluate.remote(self.run, sent, split, first, last, top_k, scores)]  # noqa: E731
            return Ticket(call, self.slots, errand, "evaluate", float(last - first))

        tickets = [ticket(first) for first in range(0, len(labels), size)]
        self.dispatcher.submit(tickets)
        parts = [self.wait(ticket) for ticket in tickets]
        self.traffic.learn()
        return performance(parts, labels, self.recipe.classes, self.recipe.kind.targets)

    def evaluate_clients(self, task: Task) -> list[Scores]:
        orders, errand = as_sent(task), Errand(self.traffic, self.plan.lanes)

        def ticket(clients: list[int]) -> Ticket:
            memories = [self.memory.of(client) or {} for client in clients] if task.remembers else []

            def call(actor: Any) -> list[Any]:
                self.prepare(actor, clients)
                return [actor.evaluate_clients.remote(self.run, orders, clients, *memories)]

            return self.ticket_for("evaluate_clients", clients, call, errand)

        calls = 4 * len(self.slots) if self.plan.packed else len(self)
        tickets = [ticket(clients) for clients in cut(list(range(len(self))), calls)]
        self.dispatcher.submit(tickets)
        scores = [score for ticket in tickets for score in self.wait(ticket)]
        self.traffic.learn()
        return scores

    def rows(self) -> dict[str, Any]:
        """The columns of the table `population`, a value for each client.

        Packed clients are spread evenly over the actors here, in order, though any actor may train any client.
        """
        place = np.arange(len(self)) * len(self.slots) // len(self)
        sharing = np.bincount(place)[place]
        known = [slot.known for slot in self.slots]
        where = {name: np.array([each[name] for each in known], object)[place] for name in ("actor", "node", "pid")}
        return {
            "client": np.arange(len(self)),
            **where,
            "num_cpus": self.plan.num_cpus / sharing,
            "num_gpus": self.plan.num_gpus / sharing,
            "num_examples": self.sizes,
        }

    def count_memories(self, t: int, since: int | None = None) -> int:
        return len(self.memory.after(t, since))

    def memories(self, t: int, since: int | None = None) -> Iterator[tuple[int, Vectors]]:
        for client, ref in self.memory.after(t, since):
            memory, error = look(ref)
            if error is not None:
                raise LostStateError(f"the state of client {client} is lost: {first_line(error)}")
            yield client, memory
            del memory  # freed before the next one is read

    def remember(self, client: int, memory: Vectors) -> None:
        self.memory.remember(client, ray.put(memory))

    def close(self) -> None:
        self.handles = []
        self.memory.clear()
        self.dispatcher.withdraw(self.traffic)
        self.pool.leave(self.run, self.slots)
        self.data = self.rows_of_all = None


def describe(event: Event) -> str:
    """A line about an event."""
    clients = ", ".join(map(str, event.clients[:5])) + (", ..." if len(event.clients) > 5 else "")
    at_work = f", at work on client{'s' * (len(event.clients) > 1)} {clients}" if clients else ""
    detail = "" if event.kind in ("actor_lost", "node_lost") else f": {event.detail}"  # Ray says no more than that
    return f"{HAPPENED[event.kind]}{f' (process {event.pid})' if event.pid else ''}{at_work}{detail}"


@dataclass(eq=False)
class RayHandle(Handle):
    """A task in the hands of actors: its calls, by block, and what they were sent."""

    began: float = 0.0
    errand: Errand = field(init=False)
    orders: Any = None
    tickets: list[list[Ticket]] = field(default_factory=list)


ORDERED = [field.name for field in fields(Task) if field.name not in ("inputs", "weights")]
"""The fields of a task that its orders have. The others travel with each call."""


def vectors_apart(task: Task, clients: Sequence[int]) -> int:
    """The number of objects in which a call returns its vectors: one, or one for each client that is not summed."""
    return 1 if task.aggregator.linear else len(clients)


def as_sent(task: Task) -> Any:
    """The Orders of a call: the task and its message pickled if they are small, otherwise a reference to them.

    The algorithm is always pickled here, so that its code is not unpickled by Ray but by `unpickled`, which reports
    errors as the client's.
    """
    bare = replace(task, message={}, inputs=(), weights=None)
    if num_bytes(task.message) <= BY_VALUE:
        return ray.cloudpickle.dumps((bare, task.message), protocol=5)
    return ray.put((ray.cloudpickle.dumps(bare, protocol=5), task.message))


def split(elapsed: float, occupancy: Occupancy, trained: float, called: float) -> Seconds:
    """The parts of the `elapsed` seconds of a cohort's training.

    The actors together spent `trained` seconds on local training, and `called` seconds in the calls that it was part
    of. The driver's time after the end of the last call counts as aggregation.
    """
    train, idle = trained / occupancy.lanes, occupancy.free / occupancy.lanes
    aggregate = (called - trained) / occupancy.lanes + elapsed - (occupancy.changed - occupancy.opened)
    return Seconds(train, aggregate, idle, transfer=elapsed - train - idle - aggregate)
