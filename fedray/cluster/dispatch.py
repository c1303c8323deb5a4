"""The dispatcher of all calls to the actors of a process: it hands calls out, waits, and repeats those of lost actors.

An actor has at most one call running and one waiting. The order in which calls are handed out changes no bit: results
are read in the order that the caller asks for.

Several runs may share the dispatcher, each in a thread of its own. A thread that waits settles every call that has
ended, whichever run it belongs to. Calls of a run that began earlier are handed out first; the others fill the gaps.

A fault of a process is noted as an Event of each run whose calls it hit. An actor is lost when it is killed, when
memory runs out, when its node is lost or when it hangs. Its calls are made again on other actors, unless the run asked
to drop them.
"""

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from fedray.cluster.recall import ask_to_stop, forget
from fedray.cluster.tickets import Errand, Slot, Ticket, Traffic, note
from fedray.core.errors import ClientError, LostActorError, LostStateError
from fedray.core.updates import Event

MOST_TRIES = 4  # tries of one call, or of filling one slot, before it is given up
NO_ROOM = "no node has room for it"
LOOK_UP_SECONDS = 0.5  # how often a waiting thread checks whether it must stop


class Dispatcher:
    """Hands tickets to slots and waits for them; at most `lanes` of the slots have calls at any time."""

    def __init__(self) -> None:
        self.lanes = 1
        self.lock = threading.RLock()  # for all attributes below, and for the contents of slots and tickets
        self.queue: list[Ticket] = []
        self.slots: list[Slot] = []  # those with calls in flight, or with an actor coming up
        self.stopping = False

    def stop(self) -> None:
        """Make each thread that waits, now or later, raise KeyboardInterrupt: Python raises it in the main one only."""
        self.stopping = True

    def pause(self) -> None:
        """Wait a moment for other threads; KeyboardInterrupt after `stop`."""
        time.sleep(0.05)
        if self.stopping:
            raise KeyboardInterrupt

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue tickets, the costliest of a run first, and start those that there is room for."""
        with self.lock:
            self.queue.extend(sorted(tickets, key=lambda ticket: -ticket.cost))
            self.queue.sort(key=lambda ticket: ticket.traffic.rank)
            self.hand_out()

    def wait(self, ticket: Ticket, look: Callable[[], None] = lambda: None) -> Any:
        """Wait for a ticket and return its first result. Its other references are then in ticket.refs[1:].

        `look` is called after each turn. Raises ClientError if the client's code failed, LostActorError if the call was
        dropped or its actors kept dying, LostStateError if an object that it needs is lost.
        """
        while not ticket.done:
            self.turn()
            look()
        if ticket.error:
            raise ticket.error
        return ticket.result

    def fetch(self, ticket: Ticket, index: int) -> Any:
        """The object of the ticket's reference `index`. If that was lost with its node, the call is made again."""
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
        """Drop all calls in flight on these slots, which are about to be given up."""
        with self.lock:
            over = {ticket.errand for slot in slots for ticket in slot.tickets if ticket.errand.over}
            for slot in slots:
                slot.tickets, slot.starting = [], None
            for errand in over:
                self.forget_stopped(errand)
            self.slots = [slot for slot in self.slots if slot not in slots]
            self.hand_out()  # other runs' calls may have room now

    def withdraw(self, traffic: Traffic) -> None:
        """Drop a run's queued calls. Its calls in flight go on."""
        with self.lock:
            traffic.over = True
            self.queue = [ticket for ticket in self.queue if ticket.traffic is not traffic]

    def cancel(self, errand: Errand) -> None:
        """Drop an errand's calls: those that are queued are never made, and those at an actor end at their next step.

        What they held is freed. The actors are free for other calls when the cancelled ones have ended.
        """
        with self.lock:
            errand.over = True
            self.queue = [ticket for ticket in self.queue if ticket.errand is not errand]
            flying = [ticket for slot in self.slots for ticket in slot.tickets if ticket.errand is errand]
            for ticket in flying:
                ticket.let_go()
            if flying:
                ask_to_stop(errand.name)

    def forget_stopped(self, errand: Errand) -> None:
        """Forget that an errand's calls were asked to stop, once none of them runs."""
        if errand.over and not any(ticket.errand is errand for slot in self.slots for ticket in slot.tickets):
            forget(errand.name)

    def hand_out(self) -> None:
        """Start queued calls wherever there is room, each on the least loaded of the slots that it may run on."""
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
        self.note(ticket.errand)

    def note(self, *errands: Errand) -> None:
        """Tell each of these how many of its calls are running; the first call of a slot is the running one."""
        first = [slot.tickets[0].errand for slot in self.slots if slot.tickets]
        for errand in errands:
            errand.occupancy.note(sum(each is errand for each in first))

    def watch(self, slot: Slot) -> None:
        """Let the next turns wait for this slot's calls, or for its actor to come up."""
        with self.lock:
            if slot not in self.slots:
                self.slots.append(slot)

    def turn(self) -> None:
        """Wait until a call ends or an actor comes up, settle it, and hand out the calls that have room then.

        Another thread may settle the same call meanwhile, so each is checked again after the wait.
        """
        with self.lock:
            flying = {ticket.refs[0]: (ticket, slot) for slot in self.slots for ticket in slot.tickets}
            starting = {slot.starting: slot for slot in self.slots if slot.starting is not None}
        if not flying and not starting:  # another thread has just settled all of them
            self.pause()
            return
        began = time.monotonic()
        ready, _ = ray.wait([*flying, *starting], num_returns=1, timeout=LOOK_UP_SECONDS)
        away = time.monotonic() - began - LOOK_UP_SECONDS
        if self.stopping:
            raise KeyboardInterrupt
        with self.lock:
            if away > LOOK_UP_SECONDS:  # this process was stopped, so calls and starts get that time back
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
            return  # another thread settled it, or it was lost with another call of its actor
        before = [each.errand for each in slot.tickets]
        result, error = look(ticket.refs[0])
        cause = error.cause if isinstance(error, RayTaskError) else error
        if ticket.errand.over and (error is None or isinstance(error, RayTaskError)):
            ticket.done, ticket.refs = True, []
            self.free(slot, ticket)
            self.note(*before)
            self.forget_stopped(ticket.errand)
            return
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
        """Remove an ended call from its slot. The slot's next call, if any, runs from now on."""
        slot.tickets.remove(ticket)
        slot.busy_since = time.monotonic()

    def miss(self, ticket: Ticket, slot: Slot, error: Exception) -> None:
        """Settle a call whose result or argument was lost with a node, while its actor is well.

        A second try helps if the result was lost. It fails again if an argument was lost, which is a LostStateError.
        """
        before = [each.errand for each in slot.tickets]
        self.free(slot, ticket)
        self.note(*before)
        note(Event("object_lost", first_line(error), clients=tuple(ticket.clients)), ticket.traffic)
        ticket.misses += 1
        if ticket.misses > 1:
            ticket.done, ticket.error = True, LostStateError(first_line(error))
        else:
            self.again(ticket, error, running=False)

    def lose(self, slot: Slot, error: Exception) -> None:
        """Settle the loss of a slot's actor: note it, start a new one there, and make its calls again or drop them."""
        lost, slot.tickets = slot.tickets, []
        self.note(*(ticket.errand for ticket in lost))
        at_work = tuple(lost[0].clients) if lost else ()
        traffics = [ticket.traffic for ticket in lost]
        note(Event(kind_of(error, slot), first_line(error), **slot.known, clients=at_work), *traffics)
        slot.lost, slot.where = True, {}
        slot.respawn(slot)
        for ticket in reversed(lost):  # they are queued before all others, in their old order
            running = ticket is lost[0]
            ticket.tries -= not running  # a call that only waited there has not been tried
            self.again(ticket, error, running)

    def see_call(self, ticket: Ticket, slot: Slot) -> None:
        """Kill the actor of a call that is over its deadline; note a slow call that has none yet."""
        patience, allowed = ticket.traffic.patience, ticket.errand.time_for(ticket)
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
        """Give a slot up if its actor takes too long to come up, or if no node has room for it."""
        late = time.monotonic() > slot.deadline
        if late and slot.where:  # this actor was up before, and has hung since
            slot.where, slot.lost = {}, True
            slot.respawn(slot)
        elif late or slot.hopeless():
            ray.kill(slot.handle)
            slot.give_up("it did not answer in time" if late else NO_ROOM)

    def again(self, ticket: Ticket, error: Exception, running: bool = True) -> None:
        """Queue a call again, before all others, unless it is to be dropped or has had all its tries."""
        ticket.done, ticket.result = False, None
        if not ticket.is_wanted:
            self.forget_stopped(ticket.errand)
            return
        if ticket.drop and running:
            ticket.done, ticket.error = True, LostActorError(first_line(error))
        elif ticket.tries >= MOST_TRIES:
            why = f"a call lost its actor {ticket.tries} times: {first_line(error)}"
            ticket.done, ticket.error = True, LostActorError(why)
        else:
            ticket.errand.retries += 1
            self.queue.insert(0, ticket)


class HungError(RuntimeError):
    """A call took longer than its deadline, so its actor is taken to hang."""


def kind_of(error: Exception, slot: Slot) -> str:
    """The kind of the event when a slot's actor is lost with this error."""
    if isinstance(error, HungError):
        return "hung"
    if isinstance(error, OutOfMemoryError):
        return "out_of_memory"
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return "actor_lost" if not slot.where or slot.where["node"] in alive else "node_lost"


def look(ref: Any) -> tuple[Any, RayError | None]:
    """The object of a reference and None, or None and the error that Ray raises for it.

    The error has no traceback: a frame of Ray's in it refers back to the error, and this cycle would keep the caller's
    variables alive until the next garbage collection.
    """
    try:
        return ray.get(ref), None
    except RayError as error:
        return None, error.with_traceback(None)


def first_line(error: Exception) -> str:
    """The first sentence of an error, without Ray's advice."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first.partition(". ")[0].rstrip(".")
