"""The pool of actor processes. It stays warm from run to run; runs that want the same reservations share it."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from fedray.cluster.actor import ClientActor, NodeData
from fedray.cluster.capacity import Capacity
from fedray.cluster.dispatch import NO_ROOM, Dispatcher
from fedray.cluster.forks import Nursery
from fedray.cluster.plan import Plan, room_for_actors
from fedray.cluster.tickets import Slot, Traffic, Use
from fedray.cluster.versions import software
from fedray.core.errors import BadInputError
from fedray.data.dataset import Dataset

LAST = ""
LOOK_SECONDS = 2.0  # how often the room on the nodes of a joined cluster is read anew


class Pool:
    """The actor processes of this Ray. They stay warm from run to run while runs want the same reservations."""

    def __init__(
        self,
        start_timeout: float,
        nursery: Nursery | None = None,
        capacity: "Callable[[Pool], Capacity] | None" = None,
    ):
        """`capacity(pool)` reads what the nodes of a joined cluster have for the pool now, as nodes come and go.

        It is None for a local Ray. `start_timeout` is the seconds that an actor may take to come up. With a `nursery`
        actors are forked, otherwise each imports torch anew.
        """
        self.start_timeout, self.nursery, self.capacity = start_timeout, nursery, capacity
        self.software = software() if capacity else None  # every node must have this software
        self.plainly = "" if nursery else "each imports torch anew"  # how actors start, in words; empty if forked
        self.known = nursery is None  # whether it is known that the nursery works
        self.actor: Any = ray.remote(ClientActor)  # once: Ray pickles and sends the class for each
        self.dispatcher = Dispatcher()
        self.claiming = threading.Lock()  # held by the run whose actors are chosen and started
        self.shape: tuple[float, float] | None = None
        self.slots: list[Slot] = []
        self.shared: dict[str, tuple[Dataset, Any]] = {}  # by run; under LAST the data set used last
        self.looked, self.room, self.cores = 0.0, 0, 0  # when nodes were last read; the actors and cores they hold

    @property
    def finds_no_gpu(self) -> bool:
        """Whether torch finds no GPU in the actors that are up, though Ray has reserved shares of GPUs for them."""
        found = [slot.where["device"] for slot in list(self.slots) if slot.where]
        return bool(self.shape and self.shape[1] and found) and set(found) == {"cpu"}

    def claim(self, run: str, traffic: Traffic, plan: Plan, dataset: Dataset) -> tuple[list[Slot], Any]:
        """The slots of the planned number of actors, all up, and a reference to the data set, until the run leaves.

        Runs share actors if no more of them fit. A run that wants other reservations waits until no run uses the
        present actors. BadInputError if actors are not up in time. Slots that no node has room for, because a node has
        just been lost, stay empty instead.
        """
        with self.claiming:
            if self.nursery and not self.known:
                self.known = True
                if trouble := self.nursery.trouble():
                    self.nursery, self.plainly = None, f"not forked ({trouble}), so each imports torch anew"
            shape = (plan.num_cpus, plan.num_gpus)
            while shape != self.shape and any(slot.uses for slot in self.slots):
                self.dispatcher.pause()
            try:
                slots = self.choose(run, traffic, plan)
                self.await_all(slots)
                self.renew_edited(run, slots)
                lost = [slot for slot in slots if slot.gone]
                if lost and (len(lost) == len(slots) or any(slot.why != NO_ROOM for slot in lost)):
                    raise BadInputError(
                        f"only {len(slots) - len(lost)} of {len(slots)} actors x {plan.num_cpus:g} CPU and "
                        f"{plan.num_gpus:g} GPU came up ({lost[0].why}); see cluster.start_timeout, or pack clients "
                        "with cluster.clients_per_actor"
                    )
                return slots, self.share(run, dataset)
            except BaseException:
                self.leave(run, [slot for slot in self.slots if run in slot.uses])
                raise

    def choose(self, run: str, traffic: Traffic, plan: Plan) -> list[Slot]:
        """The slots for a run: those that the fewest runs use, new ones if there is room. Actors may not be up yet."""
        with self.dispatcher.lock:
            shape = (plan.num_cpus, plan.num_gpus)
            self.give_up([slot for slot in self.slots if slot.gone or shape != self.shape])
            if not self.capacity and not any(slot.uses for slot in self.slots):
                self.give_up(self.slots[plan.actors :])  # the plan does not count on their memory
            self.shape, self.looked = shape, 0.0
            idle = sum(not slot.uses for slot in self.slots)
            missing = min(plan.actors - idle, plan.room - len(self.slots))
            self.slots += [self.place() for _ in range(missing)]
            slots = sorted(self.slots, key=lambda slot: len(slot.uses))[: plan.actors]
            for slot in slots:
                if not slot.uses:
                    self.await_answer(slot)
                slot.uses[run] = Use(traffic)  # the run replaces it by one that can enrol actors
            self.dispatcher.lanes = min(len(self.slots), plan.most_lanes)
            return slots

    def leave(self, run: str, slots: list[Slot]) -> None:
        """Release the slots and the data set of a run that has ended, well or not."""
        with self.dispatcher.lock:
            for slot in slots:
                slot.uses.pop(run, None)
            # After an error some actors are busy with calls that nobody waits for; others may still be starting.
            busy = [slot for slot in slots if slot.gone or slot.tickets or slot.starting is not None]
            self.give_up([slot for slot in busy if not slot.uses])
            for slot in slots:
                if not slot.gone:
                    slot.handle.release.remote(run)
        self.shared.pop(run, None)

    def await_answer(self, slot: Slot) -> None:
        """Ask the slot's actor for its place, and let the dispatcher wait for the answer."""
        slot.starting, slot.deadline = slot.handle.where.remote(sys.path), time.monotonic() + self.start_timeout
        self.dispatcher.watch(slot)

    def await_all(self, slots: list[Slot]) -> None:
        """Wait until each of these slots has answered or is given up."""
        while any(slot.starting is not None and not slot.gone for slot in slots):
            self.dispatcher.turn()

    def renew_edited(self, run: str, slots: list[Slot]) -> None:
        """Replace the actors that have an older text of a user's module, where no other run uses them."""
        with self.dispatcher.lock:
            for slot in slots:
                if not slot.gone and slot.where.get("edited") and slot.uses.keys() == {run}:
                    self.respawn(slot)
        self.await_all(slots)

    def give_up(self, slots: list[Slot]) -> None:
        """Kill these slots' actors and remove the slots; new ones are made when a run next needs them."""
        for slot in slots:
            slot.gone = True
        self.dispatcher.forget(slots)
        self.slots = [slot for slot in self.slots if slot not in slots]
        for slot in slots:
            ray.kill(slot.handle)

    def share(self, run: str, dataset: Dataset) -> Any:
        """A reference to the data set in the object store, put there once for consecutive runs with the same one."""
        known = next((shared for shared in list(self.shared.values()) if shared[0] is dataset), None)
        if known is None:
            self.shared.pop(LAST, None)  # so that the store can free it before it holds the next one
            arrays = (dataset.train_images, dataset.train_labels, *dataset.examples("test"))
            known = dataset, ray.put(NodeData(*arrays, *dataset.examples("validation")))
        self.shared[LAST] = self.shared[run] = known
        return known[1]

    def place(self) -> Slot:
        return Slot(self.spawn(), self.respawn, self.crowded)

    def spawn(self) -> Any:
        num_cpus, num_gpus = self.shape or (0.0, 0.0)
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        options["enable_task_events"] = False  # nobody reads them, and calls are faster without
        if self.nursery:
            options["runtime_env"] = self.nursery.runtime_env
        return self.actor.options(**options).remote(sys.path, self.software)

    def respawn(self, slot: Slot) -> None:
        """Start a new actor in the slot of a lost one. It is enrolled in the slot's runs before any other call.

        The lost one is killed first: if it is only out of reach, it still holds its share. If no node has room for a
        new one, the slot is given up.
        """
        ray.kill(slot.handle)
        if self.crowded():
            slot.give_up(NO_ROOM)
            return
        slot.handle = self.spawn()
        self.await_answer(slot)
        for use in slot.uses.values():
            use.enrol(slot.handle)

    def crowded(self) -> bool:
        """Whether there are more slots than the nodes that are alive can hold actors."""
        if not self.capacity:
            return False
        if time.monotonic() >= self.looked + LOOK_SECONDS:
            self.look()
        return sum(not slot.gone for slot in self.slots) > self.room

    def look(self) -> None:
        """Read how many actors of this shape fit on the nodes that are alive, beside those of other jobs."""
        capacity = self.capacity(self) if self.capacity else None
        self.room = room_for_actors(*self.shape, capacity) if self.shape and capacity and capacity.cpus else 0
        self.cores = int(sum(capacity.cpus)) if capacity else 0
        self.looked = time.monotonic()

    def refill(self, slots: list[Slot], most: int) -> list[Slot]:
        """Fill a run's given-up slots again, and add slots up to `most`, if nodes that have joined have room.

        Returns the added slots, which the run does not use yet. A slot with an actor that does not come up is given up
        again.
        """
        with self.dispatcher.lock:
            if not self.capacity:
                return []
            if time.monotonic() >= self.looked + LOOK_SECONDS:
                self.look()
            free = self.room - sum(not slot.gone for slot in self.slots)
            for slot in [slot for slot in slots if slot.gone][: max(0, free)]:
                slot.gone, slot.why, slot.failures, slot.lost = False, "", 0, True
                if slot not in self.slots:  # another run's start has removed it meanwhile
                    self.slots.append(slot)
                self.respawn(slot)
                free -= 1
            idle = [slot for slot in self.slots if slot not in slots and not slot.uses and not slot.gone]
            added = idle[: max(0, most - len(slots))]  # a lost one among them will be found when it does not answer
            new = [self.place() for _ in range(min(free, most - len(slots) - len(added)))]
            for slot in (*added, *new):
                slot.lost = slot in new
                self.await_answer(slot)
            self.slots += new
            added += new
            living = sum(not slot.gone for slot in self.slots)
            self.dispatcher.lanes = max(self.dispatcher.lanes, min(living, self.cores))
            return added
