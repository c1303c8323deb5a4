"""One dispatcher for all calls to all actors of a process: hands out, waits, and calls again when an actor is lost.

An actor has at most one call running and one waiting. Whatever order calls are handed out in, results are read in the
order that the caller asks for, so it never changes a bit.

Several runs may share it, each in a thread of its own: whichever waits settles what has ended, its own calls or
another's. A run that began earlier has its calls handed out first, and the others fill the gaps.
"""

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedray.errors import ClientError, LostActorError

IN_FLIGHT = 2  # calls an actor has: one running, one waiting
MOST_TRIES = 4  # of one call, or of filling one slot, before a loss is no accident
LOOK_UP_SECONDS = 0.5  # how often a waiting thread sees whether it is to stop


@dataclass(eq=False)
class Slot:
    """A place for one actor. When it is lost, `respawn` puts a new, enrolled one there, which then has to come up.

    `enrolments` are the runs that use it, and what enrols an actor in each. `starting` is the reference that is ready
    when the new actor has answered, and `deadline` the time until which it may take; `gone` says that the place could
    not be filled, and `why`.
    """

    handle: Any
    respawn: Callable[["Slot"], None]
    where: dict[str, Any] = field(default_factory=dict)
    enrolments: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    tickets: list["Ticket"] = field(default_factory=list)
    starting: Any = None
    deadline: float = 0.0
    failures: int = 0
    gone: bool = False
    why: str = ""

    @property
    def has_room(self) -> bool:
        """Whether it can take another call now."""
        return self.starting is None and len(self.tickets) < IN_FLIGHT


class Occupancy:
    """How much of `lanes`, the calls that can run at once, was free from the first call's start to the last's end."""

    def __init__(self, lanes: int = 1):
        self.lanes, self.running, self.started = lanes, 0, False
        self.free = 0.0  # lane-seconds
        self.opened = self.changed = time.perf_counter()

    def note(self, running: int) -> None:
        """So many calls run from now on."""
        now = time.perf_counter()
        if self.started:
            self.free += (now - self.changed) * max(0, self.lanes - self.running)
        self.running, self.changed, self.started = running, now, self.started or running > 0


@dataclass(eq=False)
class Traffic:
    """All calls of one run: those of a lower rank are handed out first. `retries` counts those made again."""

    rank: int
    occupancy: Occupancy = field(default_factory=Occupancy)
    retries: int = 0


@dataclass(eq=False)
class Ticket:
    """A call that was asked for: on any of `slots`, `call(handle)` gives its references, the first of them small."""

    call: Callable[[Any], list[Any]]
    slots: Sequence[Slot]
    traffic: Traffic
    cost: float = 0.0
    tries: int = 0
    refs: list[Any] = field(default_factory=list)
    result: Any = None  # what the first reference held
    done: bool = False
    error: Exception | None = None


class Dispatcher:
    """Hands tickets to slots and waits for them; at most `lanes` of the slots have calls at any time."""

    def __init__(self) -> None:
        self.lanes = 1
        self.lock = threading.RLock()  # for all that is below, the slots' and the tickets' contents included
        self.queue: list[Ticket] = []
        self.slots: list[Slot] = []  # those with calls in flight, or with an actor coming up
        self.stopping = False

    def stop(self) -> None:
        """Have every thread that waits, now or later, raise KeyboardInterrupt, which Python gives the main one only."""
        self.stopping = True

    def pause(self) -> None:
        """Wait a moment for what other threads do."""
        time.sleep(0.05)
        if self.stopping:
            raise KeyboardInterrupt

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue tickets, the costliest of a run first, and start what there is room for."""
        with self.lock:
            self.queue.extend(sorted(tickets, key=lambda ticket: -ticket.cost))
            self.queue.sort(key=lambda ticket: ticket.traffic.rank)
            self.hand_out()

    def wait(self, ticket: Ticket) -> Any:
        """The ticket's first result; its other references are then in ticket.refs[1:].

        Raises ClientError when the client's own code failed, LostActorError when its actors kept dying.
        """
        while not ticket.done:
            self.turn()
        if ticket.error:
            raise ticket.error
        return ticket.result

    def fetch(self, ticket: Ticket, index: int) -> Any:
        """What the ticket's reference `index` holds, the call made again if that was lost with its node."""
        while True:
            self.wait(ticket)
            try:
                return ray.get(ticket.refs[index])
            except RayTaskError:
                raise
            except RayError as error:
                with self.lock:
                    self.again(ticket, error)
                    self.hand_out()

    def forget(self, slots: Sequence[Slot]) -> None:
        """Drop all that is in flight on these slots, which are about to be given up."""
        with self.lock:
            for slot in slots:
                slot.tickets, slot.starting = [], None
            self.slots = [slot for slot in self.slots if slot not in slots]
            self.hand_out()  # there may be room for other runs' calls now

    def withdraw(self, traffic: Traffic) -> None:
        """Drop what a run has queued; what it has in flight goes on."""
        with self.lock:
            self.queue = [ticket for ticket in self.queue if ticket.traffic is not traffic]

    def hand_out(self) -> None:
        """Start queued calls wherever there is room, on the least loaded of the slots each may run on."""
        waiting = []
        for ticket in self.queue:
            left = [slot for slot in ticket.slots if not slot.gone]
            full = sum(bool(slot.tickets) for slot in self.slots) >= self.lanes
            up = [slot for slot in left if slot.has_room and (slot.tickets or not full)]
            if not left:
                ticket.done = True
                ticket.error = ticket.error or LostActorError("no actor is left for a call, and none came up again")
            elif up:
                self.start(ticket, min(up, key=lambda slot: len(slot.tickets)))
            else:
                waiting.append(ticket)
        self.queue = waiting

    def start(self, ticket: Ticket, slot: Slot) -> None:
        ticket.tries += 1
        ticket.refs = ticket.call(slot.handle)
        slot.tickets.append(ticket)
        self.watch(slot)
        self.note(ticket.traffic)

    def note(self, *traffics: Traffic) -> None:
        """Tell these runs how many of the calls that now run are theirs: the first on each slot."""
        first = [slot.tickets[0].traffic for slot in self.slots if slot.tickets]
        for traffic in traffics:
            traffic.occupancy.note(sum(each is traffic for each in first))

    def watch(self, slot: Slot) -> None:
        """Wait for this slot's calls, or for its actor to come up, in the turns to come."""
        with self.lock:
            if slot not in self.slots:
                self.slots.append(slot)

    def turn(self) -> None:
        """Wait for one call to end or one actor to come up, settle it, and hand out what that makes room for.

        While one thread waits here another may settle the same: what a turn found to wait for is looked at again.
        """
        with self.lock:
            flying = {ticket.refs[0]: (ticket, slot) for slot in self.slots for ticket in slot.tickets}
            starting = {slot.starting: slot for slot in self.slots if slot.starting is not None}
        if not flying and not starting:  # another thread has just settled what there was
            self.pause()
            return
        ready, _ = ray.wait([*flying, *starting], num_returns=1, timeout=LOOK_UP_SECONDS)
        if self.stopping:
            raise KeyboardInterrupt
        with self.lock:
            for ref in ready:
                if ref in starting:
                    self.settle_start(starting[ref], ref)
                else:
                    self.settle_call(*flying[ref], ref)
            for ref, slot in starting.items():
                if slot.starting is ref and not slot.gone and time.monotonic() > slot.deadline:
                    slot.gone, slot.why = True, "it did not answer in time"
                    ray.kill(slot.handle)
            self.slots = [slot for slot in self.slots if slot.tickets or (slot.starting is not None and not slot.gone)]
            self.hand_out()

    def settle_call(self, ticket: Ticket, slot: Slot, ref: Any) -> None:
        if ticket not in slot.tickets or ticket.refs[0] is not ref:
            return  # another thread's turn settled it, or it was lost with another call of its actor
        before = [each.traffic for each in slot.tickets]
        try:
            result = ray.get(ticket.refs[0])
            ticket.result = pickle.loads(result) if isinstance(result, bytes) else result
        except RayTaskError as error:
            ticket.error = error.cause if isinstance(error.cause, ClientError) else error
        except RayError as error:
            lost, slot.tickets = slot.tickets, []
            self.note(*before)
            slot.respawn(slot)
            for each in reversed(lost):  # they come first now, in their old order
                self.again(each, error)
            return
        ticket.done = True
        slot.tickets.remove(ticket)
        self.note(*before)

    def settle_start(self, slot: Slot, ref: Any) -> None:
        if slot.starting is not ref:
            return
        try:
            slot.where = ray.get(slot.starting)
            slot.starting, slot.failures = None, 0
        except RayError as error:
            slot.failures += 1
            if slot.failures < MOST_TRIES:
                slot.respawn(slot)
            else:
                slot.gone, slot.why = True, f"it died {slot.failures} times: {str(error).strip().splitlines()[-1]}"

    def again(self, ticket: Ticket, error: Exception) -> None:
        """Queue a call again, first of all, unless that has been done too often."""
        ticket.traffic.retries += 1
        ticket.done, ticket.result = False, None
        if ticket.tries >= MOST_TRIES:
            first = str(error).strip().splitlines()[0]
            ticket.done, ticket.error = True, LostActorError(f"a call lost its actor {ticket.tries} times: {first}")
        else:
            self.queue.insert(0, ticket)
