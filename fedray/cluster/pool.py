"""The actor processes, kept warm from run to run."""

import sys
from typing import Any

import ray
from ray.exceptions import RayError

from fedray.cluster.actor import ClientActor, Data
from fedray.cluster.dispatch import Dispatcher, Slot
from fedray.cluster.resources import Plan
from fedray.data import Dataset
from fedray.errors import BadInputError


class Pool:
    """The actor processes of this Ray: kept warm from run to run while the next run wants the same reservations."""

    def __init__(self, start_timeout: float):
        self.start_timeout = start_timeout
        self.dispatcher = Dispatcher()
        self.shape: tuple[float, float] | None = None
        self.slots: list[Slot] = []
        self.shared: tuple[Dataset, Any] | None = None

    def provide(self, plan: Plan) -> list[Slot]:
        """As many actors as planned, up and answering; BadInputError when they are not within the time allowed."""
        shape = (plan.num_cpus, plan.num_gpus)
        if shape != self.shape or len(self.slots) > plan.actors:
            for slot in self.slots:
                ray.kill(slot.handle)
            self.slots, self.shape = [], shape
        new = [Slot(self.spawn(), self.respawn) for _ in range(plan.actors - len(self.slots))]
        asked = {slot.handle.where.remote(): slot for slot in (*self.slots, *new)}
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=self.start_timeout)
        if late:
            for slot in new:
                ray.kill(slot.handle)
            raise BadInputError(
                f"only {len(ready)} of {len(asked)} actors x {plan.num_cpus:g} CPU and {plan.num_gpus:g} GPU were up "
                f"after {self.start_timeout:g} s (cluster.start_timeout); pack clients with cluster.clients_per_actor"
            )
        for ref, slot in asked.items():
            try:
                slot.where = ray.get(ref)
            except RayError:  # a warm one that died since the last run
                self.respawn(slot)
                slot.where = ray.get(slot.handle.where.remote(), timeout=self.start_timeout)
        self.slots += new
        return self.slots

    def share(self, dataset: Dataset) -> Any:
        """A reference to the data set in the object store: put there once for all runs that use it in a row."""
        if self.shared is None or self.shared[0] is not dataset:
            self.shared = None  # the store may let go of the last one before it holds the next
            arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
            self.shared = (dataset, ray.put(Data(*arrays)))
        return self.shared[1]

    def spawn(self) -> Any:
        num_cpus, num_gpus = self.shape or (0.0, 0.0)
        return ray.remote(ClientActor).options(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0).remote(sys.path)

    def respawn(self, slot: Slot) -> None:
        """Put a new actor in the place of a lost one, which is killed: out of reach, it may still hold its share."""
        ray.kill(slot.handle)
        slot.handle = self.spawn()
