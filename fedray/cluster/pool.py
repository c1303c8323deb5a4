"""The actor processes, kept warm from run to run, and shared by runs that want the same reservations."""

import sys
import threading
import time
from typing import Any

import ray

from fedray.cluster.actor import ClientActor, NodeData
from fedray.cluster.dispatch import Dispatcher, Slot
from fedray.cluster.forks import Nursery
from fedray.cluster.resources import Plan
from fedray.data import Dataset
from fedray.errors import BadInputError

LAST = ""


class Pool:
    """The actor processes of this Ray: kept warm from run to run while the next run wants the same reservations."""

    def __init__(self, start_timeout: float, nursery: Nursery | None = None):
        self.start_timeout, self.nursery = start_timeout, nursery
        self.plainly = "" if nursery else "each imports torch anew"  # how actors start that are not forked
        self.known = nursery is None
        self.dispatcher = Dispatcher()
        self.claiming = threading.Lock()  # held by the run whose actors are chosen and started
        self.shape: tuple[float, float] | None = None
        self.slots: list[Slot] = []
        self.shared: dict[str, tuple[Dataset, Any]] = {}  # by run, and what was used last

    def claim(self, run: str, plan: Plan, dataset: Dataset) -> tuple[list[Slot], Any]:
        """As many actors as planned, up and answering, and a reference to the data set, until the run leaves.

        Runs share actors where no more of them fit. A run that wants other reservations than those of the actors at
        work waits until these are free. BadInputError when actors are not up within the time allowed.
        """
        with self.claiming:
            if self.nursery and not self.known:
                self.known = True
                if trouble := self.nursery.trouble():
                    self.nursery, self.plainly = None, f"not forked ({trouble}), so each imports torch anew"
            shape = (plan.num_cpus, plan.num_gpus)
            while shape != self.shape and any(slot.enrolments for slot in self.slots):
                self.dispatcher.pause()
            try:
                slots = self.choose(run, plan)
                while any(slot.starting is not None and not slot.gone for slot in slots):
                    self.dispatcher.turn()
                if lost := [slot for slot in slots if slot.gone]:
                    raise BadInputError(
                        f"only {len(slots) - len(lost)} of {len(slots)} actors x {plan.num_cpus:g} CPU and "
                        f"{plan.num_gpus:g} GPU came up ({lost[0].why}); see cluster.start_timeout, or pack clients "
                        "with cluster.clients_per_actor"
                    )
                return slots, self.share(run, dataset)
            except BaseException:
                self.leave(run, [slot for slot in self.slots if run in slot.enrolments])
                raise

    def choose(self, run: str, plan: Plan) -> list[Slot]:
        """The actors for a run, those with the fewest others, new ones where there is room; they may not answer yet."""
        with self.dispatcher.lock:
            shape = (plan.num_cpus, plan.num_gpus)
            self.give_up([slot for slot in self.slots if slot.gone or shape != self.shape])
            self.shape = shape
            idle = sum(not slot.enrolments for slot in self.slots)
            missing = min(plan.actors - idle, plan.room - len(self.slots))
            self.slots += [Slot(self.spawn(), self.respawn) for _ in range(missing)]
            slots = sorted(self.slots, key=lambda slot: len(slot.enrolments))[: plan.actors]
            for slot in slots:
                if not slot.enrolments:
                    self.await_answer(slot)
                slot.enrolments[run] = lambda actor: None  # until the run says how
            self.dispatcher.lanes = min(len(self.slots), plan.most_lanes)
            return slots

    def leave(self, run: str, slots: list[Slot]) -> None:
        """Let go of what a run claimed, when it has ended, well or not."""
        with self.dispatcher.lock:
            for slot in slots:
                slot.enrolments.pop(run, None)
            # After an error some are busy with what nobody waits for any more; others may still be coming up again.
            busy = [slot for slot in slots if slot.gone or slot.tickets or slot.starting is not None]
            self.give_up([slot for slot in busy if not slot.enrolments])
            for slot in slots:
                if not slot.gone:
                    slot.handle.release.remote(run)
        self.shared.pop(run, None)

    def await_answer(self, slot: Slot) -> None:
        """Have the dispatcher wait for the slot's actor to say where it is."""
        slot.starting, slot.deadline = slot.handle.where.remote(), time.monotonic() + self.start_timeout
        self.dispatcher.watch(slot)

    def give_up(self, slots: list[Slot]) -> None:
        """End these actors; their places are filled anew when a run next wants them."""
        for slot in slots:
            slot.gone = True
        self.dispatcher.forget(slots)
        self.slots = [slot for slot in self.slots if slot not in slots]
        for slot in slots:
            ray.kill(slot.handle)

    def share(self, run: str, dataset: Dataset) -> Any:
        """A reference to the data set in the object store: put there once for all runs that use it in a row."""
        known = next((shared for shared in list(self.shared.values()) if shared[0] is dataset), None)
        if known is None:
            self.shared.pop(LAST, None)  # the store may let go of it before it holds the next
            arrays = (dataset.train_images, dataset.train_labels, *dataset.examples("test"))
            known = dataset, ray.put(NodeData(*arrays, *dataset.examples("validation")))
        self.shared[LAST] = self.shared[run] = known
        return known[1]

    def spawn(self) -> Any:
        num_cpus, num_gpus = self.shape or (0.0, 0.0)
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        options["enable_task_events"] = False  # nobody looks at them, and each call is the faster
        if self.nursery:
            options["runtime_env"] = self.nursery.runtime_env
        actor = ray.remote(ClientActor).options(**options)
        return actor.remote(sys.path)

    def respawn(self, slot: Slot) -> None:
        """Put a new actor in the place of a lost one, enrolled before any call that is queued behind.

        The lost one is killed: out of reach, it may still hold its share.
        """
        ray.kill(slot.handle)
        slot.handle = self.spawn()
        self.await_answer(slot)
        for enrol in slot.enrolments.values():
            enrol(slot.handle)
