"""One dispatcher for all calls to all actors of a process: hands out, waits, and calls again when an actor is lost.

An actor has at most one call running and one waiting. Whatever order calls are handed out in, results are read in the
order that the caller asks for, so it never changes a bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedray.errors import ClientError, LostActorError

IN_FLIGHT = 2  # calls an actor has: one running, one waiting
MOST_TRIES = 4  # of one call, before its loss is no accident


@dataclass(eq=False)
class Slot:
    """A place for one actor. `respawn` fills it with a new, enrolled actor when the last one was lost."""

    handle: Any
    respawn: Callable[["Slot"], None]
    where: dict[str, Any] = field(default_factory=dict)
    tickets: list["Ticket"] = field(default_factory=list)


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


class Dispatcher:
    """Hands tickets to slots and waits for them."""

    def __init__(self) -> None:
        self.queue: list[Ticket] = []
        self.slots: list[Slot] = []  # those with calls in flight
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
        """The ticket's reference `index`, with the call made again if the object was lost with its node."""
        while True:
            self.wait(ticket)
            try:
                return ray.get(ticket.refs[index])
            except RayTaskError:
                raise
            except RayError as error:
                self.again(ticket, error)
                self.hand_out()

    def withdraw(self, tickets: Sequence[Ticket]) -> None:
        """Forget tickets that nobody waits for any more; a call that is running runs to its end."""
        gone = set(map(id, tickets))
        self.queue = [ticket for ticket in self.queue if id(ticket) not in gone]

    def hand_out(self) -> None:
        """Start queued calls wherever there is room, on the least loaded of the slots each may run on."""
        waiting = []
        for ticket in self.queue:
            slot = min(ticket.slots, key=lambda slot: len(slot.tickets))
            if len(slot.tickets) < IN_FLIGHT:
                self.start(ticket, slot)
            else:
                waiting.append(ticket)
        self.queue = waiting

    def start(self, ticket: Ticket, slot: Slot) -> None:
        ticket.tries += 1
        ticket.refs = ticket.call(slot.handle)
        slot.tickets.append(ticket)
        if slot not in self.slots:
            self.slots.append(slot)

    def turn(self) -> None:
        """Wait for one call to end, settle it, and hand out what that makes room for."""
        flying = {ticket.refs[0]: (ticket, slot) for slot in self.slots for ticket in slot.tickets}
        ready, _ = ray.wait(list(flying), num_returns=1)
        for ref in ready:
            ticket, slot = flying[ref]
            try:
                ticket.result = ray.get(ref)
            except RayTaskError as error:
                ticket.error = error.cause if isinstance(error.cause, ClientError) else error
            except RayError as error:
                lost, slot.tickets = slot.tickets, []
                self.lose(slot, lost, error)
                continue
            ticket.done = True
            slot.tickets.remove(ticket)
        self.slots = [slot for slot in self.slots if slot.tickets]
        self.hand_out()

    def lose(self, slot: Slot, tickets: list[Ticket], error: Exception) -> None:
        """An actor was lost with its calls: put a new one in its place and queue the calls again, first of all."""
        slot.respawn(slot)
        for ticket in reversed(tickets):
            self.again(ticket, error)

    def again(self, ticket: Ticket, error: Exception) -> None:
        self.retries += 1
        ticket.done, ticket.result = False, None
        if ticket.tries >= MOST_TRIES:
            first = str(error).strip().splitlines()[0]
            ticket.done, ticket.error = True, LostActorError(f"a call lost its actor {ticket.tries} times: {first}")
        else:
            self.queue.insert(0, ticket)
