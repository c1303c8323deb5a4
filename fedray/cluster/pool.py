"""The actor processes, kept warm from run to run."""

import sys
import time
from typing import Any

import ray

from fedray.cluster.actor import ClientActor, NodeData
from fedray.cluster.dispatch import Dispatcher, Slot
from fedray.cluster.forks import Nursery
from fedray.cluster.resources import Plan
from fedray.data import Dataset
from fedray.errors import BadInputError


class Pool:
    """The actor processes of this Ray: kept warm from run to run while the next run wants the same reservations."""

    def __init__(self, start_timeout: float, nursery: Nursery | None = None):
        self.start_timeout, self.nursery = start_timeout, nursery
        self.plainly = "" if nursery else "each imports torch anew"  # how actors start that are not forked
        self.known = nursery is None
        self.dispatcher = Dispatcher()
        self.shape: tuple[float, float] | None = None
        self.slots: list[Slot] = []
        self.shared: tuple[Dataset, Any] | None = None

    def provide(self, plan: Plan) -> list[Slot]:
        """As many actors as planned, up and answering; BadInputError when they are not within the time allowed."""
        if self.nursery and not self.known:
            self.known = True
            if trouble := self.nursery.trouble():
                self.nursery, self.plainly = None, f"not forked ({trouble}), so each imports torch anew"
        self.dispatcher.lanes = plan.lanes
        shape = (plan.num_cpus, plan.num_gpus)
        kept = [slot for slot in self.slots if shape == self.shape and not slot.gone][: plan.actors]
        self.give_up([slot for slot in self.slots if slot not in kept])
        self.slots, self.shape = kept, shape
        for slot in kept:
            self.await_answer(slot)
        while len(self.slots) < plan.actors:
            self.slots.append(Slot(self.spawn(), self.respawn))
            self.await_answer(self.slots[-1])
        while any(slot.starting is not None and not slot.gone for slot in self.slots):
            self.dispatcher.turn()
        if lost := [slot for slot in self.slots if slot.gone]:
            up, wanted = len(self.slots) - len(lost), len(self.slots)
            self.give_up(self.slots)
            self.slots = []
            raise BadInputError(
                f"only {up} of {wanted} actors x {plan.num_cpus:g} CPU and {plan.num_gpus:g} GPU came up "
                f"({lost[0].why}); see cluster.start_timeout, or pack clients with cluster.clients_per_actor"
            )
        return self.slots

    def await_answer(self, slot: Slot) -> None:
        """Have the dispatcher wait for the slot's actor to say where it is."""
        slot.starting, slot.deadline = slot.handle.where.remote(), time.monotonic() + self.start_timeout
        self.dispatcher.watch(slot)

    def give_up(self, slots: list[Slot]) -> None:
        """End these actors; their places are filled anew when a run next wants them."""
        self.dispatcher.forget(slots)
        for slot in slots:
            slot.gone = True
            ray.kill(slot.handle)

    def share(self, dataset: Dataset) -> Any:
        """A reference to the data set in the object store: put there once for all runs that use it in a row."""
        if self.shared is None or self.shared[0] is not dataset:
            self.shared = None  # the store may let go of the last one before it holds the next
            arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
            self.shared = (dataset, ray.put(NodeData(*arrays)))
        return self.shared[1]

    def spawn(self) -> Any:
        num_cpus, num_gpus = self.shape or (0.0, 0.0)
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        options["enable_task_events"] = False  # nobody looks at them, and each call is the faster
        if self.nursery:
            options["runtime_env"] = self.nursery.runtime_env
        actor = ray.remote(ClientActor).options(**options)
        return actor.remote(sys.path)

    def respawn(self, slot: Slot) -> None:
        """Put a new actor in the place of a lost one, which is killed: out of reach, it may still hold its share."""
        ray.kill(slot.handle)
        slot.handle = self.spawn()
        self.await_answer(slot)
