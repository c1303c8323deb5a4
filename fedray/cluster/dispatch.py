"""One dispatcher for all calls to all actors of a process: hands out, waits, and calls again when an actor is lost.

An actor has at most one call running and one waiting. Whatever order calls are handed out in, results are read in the
order that the caller asks for, so it never changes a bit.

Several runs may share it, each in a thread of its own: whichever waits settles what has ended, its own calls or
another's. A run that began earlier has its calls handed out first, and the others fill the gaps.

What goes wrong with processes is noted as an Event of every run whose calls it hit. A call whose actor is lost, by a
kill, for want of memory, with its node, or because it has hung, is made again elsewhere, unless its run would rather
do without.
"""

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from fedray.cluster.tickets import Slot, Ticket, Traffic, note
from fedray.core.errors import ClientError, LostActorError, LostStateError
from fedray.core.updates import Event

MOST_TRIES = 4  # of one call, or of filling one slot, before a loss is no accident
NO_ROOM = "no node has room for it"
LOOK_UP_SECONDS = 0.5  # how often a waiting thread sees whether it is to stop


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

    def wait(self, ticket: Ticket, look: Callable[[], None] = lambda: None) -> Any:
        """The ticket's first result; its other references are then in ticket.refs[1:]. `look` is called now and then.

        Raises ClientError when the client's own code failed, LostActorError when its actors kept dying or it is not to
        be made again, LostStateError when what it was given is lost.
        """
        while not ticket.done:
            self.turn()
            look()
        if ticket.error:
            raise ticket.error
        return ticket.result

    def fetch(self, ticket: Ticket, index: int) -> Any:
        """What the ticket's reference `index` holds, the call made again if that was lost with its node."""
        while True:
            self.wait(ticket)
            value, error = look(ticket.refs[index])
            if error is None:
                return value
            with self.lock:
                note(Event("object_lost", first_line(error), clients=tuple(ticket.clients)), ticket.traffic)
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
            traffic.over = True
            self.queue = [ticket for ticket in self.queue if ticket.traffic is not traffic]

    def hand_out(self) -> None:
        """Start queued calls wherever there is room, on the least loaded of the slots each may run on."""
        waiting = []
        for ticket in self.queue:
            left = [slot for slot in ticket.slots if not slot.gone]
            left = left or [slot for slot in ticket.elsewhere() if not slot.gone]
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
        slot.busy_since = slot.busy_since if slot.tickets else time.monotonic()
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
        began = time.monotonic()
        ready, _ = ray.wait([*flying, *starting], num_returns=1, timeout=LOOK_UP_SECONDS)
        away = time.monotonic() - began - LOOK_UP_SECONDS
        if self.stopping:
            raise KeyboardInterrupt
        with self.lock:
            if away > LOOK_UP_SECONDS:  # this process was stopped; nobody's time went by
                for slot in self.slots:
                    slot.busy_since, slot.deadline = slot.busy_since + away, slot.deadline + away
            for ref in ready:
                if ref in starting:
                    self.settle_start(starting[ref], ref)
                else:
                    self.settle_call(*flying[ref], ref)
            for ref, slot in starting.items():
                if slot.starting is ref and not slot.gone:
                    self.see_start(slot)
            for ref, (ticket, slot) in flying.items():
                if slot.tickets[:1] == [ticket] and ticket.refs[0] is ref and ref not in ready:
                    self.see_call(ticket, slot)
            self.slots = [slot for slot in self.slots if slot.tickets or (slot.starting is not None and not slot.gone)]
            self.hand_out()

    def settle_call(self, ticket: Ticket, slot: Slot, ref: Any) -> None:
        if ticket not in slot.tickets or ticket.refs[0] is not ref:
            return  # another thread's turn settled it, or it was lost with another call of its actor
        before = [each.traffic for each in slot.tickets]
        result, error = look(ticket.refs[0])
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, ObjectLostError):
            self.miss(ticket, slot, cause)
            return
        if error is not None and not isinstance(error, RayTaskError):
            self.lose(slot, error)
            return
        ticket.result = pickle.loads(result) if isinstance(result, bytes) else result
        if isinstance(cause, ClientError):
            ticket.error = cause
        elif error is not None:
            ticket.error = ClientError(f"a call to an actor ({ticket.kind}) failed:\n{error}")
        elif ticket.cost:
            pace = (time.monotonic() - slot.busy_since) / ticket.cost
            ticket.traffic.measured[ticket.kind] = max(pace, ticket.traffic.measured.get(ticket.kind, 0.0))
        ticket.done = True
        self.free(slot, ticket)
        self.note(*before)

    def free(self, slot: Slot, ticket: Ticket) -> None:
        """The slot's actor is done with this call, and perhaps at work on the next."""
        slot.tickets.remove(ticket)
        slot.busy_since = time.monotonic()

    def miss(self, ticket: Ticket, slot: Slot, error: Exception) -> None:
        """What the call gave, or what it was given, was lost with a node; its actor is well.

        In the first case it helps to make the call again, in the second it never will.
        """
        before = [each.traffic for each in slot.tickets]
        self.free(slot, ticket)
        self.note(*before)
        note(Event("object_lost", first_line(error), clients=tuple(ticket.clients)), ticket.traffic)
        ticket.misses += 1
        if ticket.misses > 1:
            ticket.done, ticket.error = True, LostStateError(first_line(error))
        else:
            self.again(ticket, error, running=False)

    def lose(self, slot: Slot, error: Exception) -> None:
        """The slot's actor is lost: note it, put another there, and have its calls made again, or not."""
        lost, slot.tickets = slot.tickets, []
        traffics = [ticket.traffic for ticket in lost]
        self.note(*traffics)
        at_work = tuple(lost[0].clients) if lost else ()
        note(Event(kind_of(error, slot), first_line(error), **slot.known, clients=at_work), *traffics)
        slot.lost, slot.where = True, {}
        slot.respawn(slot)
        for ticket in reversed(lost):  # they come first now, in their old order
            running = ticket is lost[0]
            ticket.tries -= not running  # it only waited there
            self.again(ticket, error, running)

    def see_call(self, ticket: Ticket, slot: Slot) -> None:
        """End the actor of a call that takes far longer than any did before."""
        patience, allowed = ticket.traffic.patience, ticket.traffic.time_for(ticket)
        passed = time.monotonic() - slot.busy_since
        limited = ticket.within or (ticket.cost and patience.factor)
        if not limited or passed <= (patience.seconds if allowed is None else allowed):
            return
        if allowed is not None:
            ray.kill(slot.handle)
            self.lose(slot, HungError(f"no answer after {passed:.0f} s, when {allowed:.0f} s were allowed"))
        elif not ticket.overdue:
            ticket.overdue = True
            why = f"no answer after {passed:.0f} s; nothing like it has been measured yet, so it has no deadline"
            note(Event("slow", why, **slot.known, clients=tuple(ticket.clients)), ticket.traffic)

    def settle_start(self, slot: Slot, ref: Any) -> None:
        if slot.starting is not ref:
            return
        where, error = look(slot.starting)
        slot.starting = None
        if error is None:
            slot.where, slot.failures = where, 0
            if slot.lost:
                slot.lost = False
                slot.tell(Event("actor_started", "a new one is up", **slot.known))
            return
        slot.failures += 1
        if slot.failures < MOST_TRIES:
            slot.respawn(slot)
        else:
            slot.give_up(f"it died {slot.failures} times: {str(error).strip().splitlines()[-1]}")

    def see_start(self, slot: Slot) -> None:
        """Give a place up whose actor takes too long to come up."""
        late = time.monotonic() > slot.deadline
        if late and slot.where:  # it was up before, and has hung since
            slot.where, slot.lost = {}, True
            slot.respawn(slot)
        elif late or slot.hopeless():
            ray.kill(slot.handle)
            slot.give_up("it did not answer in time" if late else NO_ROOM)

    def again(self, ticket: Ticket, error: Exception, running: bool = True) -> None:
        """Queue a call again, first of all, unless it is to be dropped or that has been done too often."""
        ticket.done, ticket.result = False, None
        if ticket.traffic.over:
            return
        if ticket.drop and running:
            ticket.done, ticket.error = True, LostActorError(first_line(error))
        elif ticket.tries >= MOST_TRIES:
            why = f"a call lost its actor {ticket.tries} times: {first_line(error)}"
            ticket.done, ticket.error = True, LostActorError(why)
        else:
            ticket.traffic.retries += 1
            self.queue.insert(0, ticket)


class HungError(RuntimeError):
    """A call took far longer than any like it."""


def kind_of(error: Exception, slot: Slot) -> str:
    """What an event of losing the slot's actor by this error is called."""
    if isinstance(error, HungError):
        return "hung"
    if isinstance(error, OutOfMemoryError):
        return "out_of_memory"
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return "actor_lost" if not slot.where or slot.where["node"] in alive else "node_lost"


def look(ref: Any) -> tuple[Any, RayError | None]:
    """What a reference holds, or the error that Ray gives for it.

    The error comes without its traceback: a frame of Ray's in there holds the error, and both hold our own frame, with
    all that is known there, until the next garbage collection.
    """
    try:
        return ray.get(ref), None
    except RayError as error:
        return None, error.with_traceback(None)


def first_line(error: Exception) -> str:
    """The first sentence of an error, without Ray's advice."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first.partition(". ")[0].rstrip(".")
