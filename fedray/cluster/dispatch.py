"""One dispatcher for all calls to all actors of a process: hands out, waits, and calls again when an actor is lost.

An actor has at most one call running and one waiting. Whatever order calls are handed out in, results are read in the
order that the caller asks for, so it never changes a bit.
"""

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedray.errors import ClientError, LostActorError

IN_FLIGHT = 2  # calls an actor has: one running, one waiting
MOST_TRIES = 4  # of one call, or of filling one slot, before a loss is no accident


@dataclass(eq=False)
class Slot:
    """A place for one actor. When it is lost, `respawn` puts a new, enrolled one there, which then has to come up.

    `starting` is the reference that is ready when the new actor has answered, and `deadline` the time until which it
    may take; `gone` says that the place could not be filled, and `why`.
    """

    handle: Any
    respawn: Callable[["Slot"], None]
    where: dict[str, Any] = field(default_factory=dict)
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


@dataclass(eq=False)
class Ticket:
    """A call that was asked for: on any of `slots`, `call(handle)` gives its references, the first of them small."""

    call: Callable[[Any], list[Any]]
    slots: Sequence[Slot]
    cost: float = 0.0
    tries: int = 0
    refs: list[Any] = field(default_factory=list)
    result: Any = None  # what the first reference held
    done: bool = False
    error: Exception | None = None


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
        self.running, self.changed, self.started = running, now, True


class Dispatcher:
    """Hands tickets to slots and waits for them; at most `lanes` of the slots have calls at any time."""

    def __init__(self) -> None:
        self.lanes, self.occupancy = 1, Occupancy()
        self.queue: list[Ticket] = []
        self.slots: list[Slot] = []  # those with calls in flight, or with an actor coming up
        self.retries = 0

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue tickets, the costliest first, and start what there is room for."""
        self.queue.extend(sorted(tickets, key=lambda ticket: -ticket.cost))
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
                self.again(ticket, error)
                self.hand_out()

    def forget(self, slots: Sequence[Slot]) -> None:
        """Drop all that is queued or in flight on these slots, which are about to be given up or filled anew."""
        for slot in slots:
            slot.tickets, slot.starting = [], None
        self.slots = [slot for slot in self.slots if slot not in slots]
        self.queue = [ticket for ticket in self.queue if not set(ticket.slots) & set(slots)]

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
        self.note()

    def note(self) -> None:
        self.occupancy.note(sum(bool(slot.tickets) for slot in self.slots))

    def watch(self, slot: Slot) -> None:
        """Wait for this slot's calls, or for its actor to come up, in the turns to come."""
        if slot not in self.slots:
            self.slots.append(slot)

    def turn(self) -> None:
        """Wait for one call to end or one actor to come up, settle it, and hand out what that makes room for."""
        flying = {ticket.refs[0]: (ticket, slot) for slot in self.slots for ticket in slot.tickets}
        starting = {slot.starting: slot for slot in self.slots if slot.starting is not None}
        timeout = max(0.0, min(s.deadline for s in starting.values()) - time.monotonic()) if starting else None
        ready, _ = ray.wait([*flying, *starting], num_returns=1, timeout=timeout)
        for ref in ready:
            if ref in starting:
                self.settle_start(starting[ref])
            else:
                self.settle_call(*flying[ref])
        for slot in starting.values():
            if slot.starting is not None and time.monotonic() > slot.deadline:
                slot.gone, slot.why = True, "it did not answer in time"
                ray.kill(slot.handle)
        self.slots = [slot for slot in self.slots if slot.tickets or (slot.starting is not None and not slot.gone)]
        self.hand_out()

    def settle_call(self, ticket: Ticket, slot: Slot) -> None:
        if ticket not in slot.tickets:
            return  # lost in this same turn with another call of its actor
        try:
            result = ray.get(ticket.refs[0])
            ticket.result = pickle.loads(result) if isinstance(result, bytes) else result
        except RayTaskError as error:
            ticket.error = error.cause if isinstance(error.cause, ClientError) else error
        except RayError as error:
            lost, slot.tickets = slot.tickets, []
            self.note()
            slot.respawn(slot)
            for each in reversed(lost):  # they come first now, in their old order
                self.again(each, error)
            return
        ticket.done = True
        slot.tickets.remove(ticket)
        self.note()

    def settle_start(self, slot: Slot) -> None:
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
        self.retries += 1
        ticket.done, ticket.result = False, None
        if ticket.tries >= MOST_TRIES:
            first = str(error).strip().splitlines()[0]
            ticket.done, ticket.error = True, LostActorError(f"a call lost its actor {ticket.tries} times: {first}")
        else:
            self.queue.insert(0, ticket)
