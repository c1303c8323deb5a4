"""The parts that the dispatcher works with: tickets are requested calls, slots are the places of actors."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fedray.core.updates import Event

IN_FLIGHT = 2  # the most calls of an actor: one running, one waiting


@dataclass(eq=False)
class Slot:
    """A place for one actor, `handle`. When the actor is lost, `respawn` starts a new, enrolled one there.

    `where` has the ids of an actor that has come up, and `uses` the runs that use it. `busy_since` is when the first of
    its calls began to run. `starting` is the reference that is ready once a new actor has answered, which must happen
    before `deadline`; `hopeless()` tells that no node has room for it. Both times are those of time.monotonic().
    `failures` counts the starts that failed. `lost` means that the actor before was lost, `gone` that the slot was
    given up, and `why` is the reason.
    """

    handle: Any
    respawn: Callable[["Slot"], None]
    hopeless: Callable[[], bool]
    where: dict[str, Any] = field(default_factory=dict)
    uses: dict[str, "Use"] = field(default_factory=dict)
    tickets: list["Ticket"] = field(default_factory=list)
    busy_since: float = 0.0
    starting: Any = None
    deadline: float = 0.0
    failures: int = 0
    lost: bool = False
    gone: bool = False
    why: str = ""

    @property
    def known(self) -> dict[str, Any]:
        """The actor's id, node and process id for an event; each is None until the actor has come up."""
        return {name: self.where.get(name) for name in ("actor", "node", "pid")}

    def tell(self, event: Event) -> None:
        """Note an event for each run that uses this slot."""
        note(event, *(use.traffic for use in self.uses.values()))

    def give_up(self, why: str) -> None:
        """Leave this slot without an actor, for the reason `why`."""
        self.gone, self.why, self.starting = True, why, None
        self.tell(Event("place_given_up", why, **self.known))

    @property
    def has_room(self) -> bool:
        """Whether its actor can take another call now."""
        return self.starting is None and len(self.tickets) < IN_FLIGHT


class Occupancy:
    """The idle time of `lanes`, the calls that can run at once, from the first call's start to the last one's end."""

    def __init__(self, lanes: int = 1):
        self.lanes, self.running, self.started = lanes, 0, False
        self.free = 0.0  # lane-seconds
        self.opened = self.changed = time.perf_counter()

    def note(self, running: int) -> None:
        """From now on `running` calls run."""
        now = time.perf_counter()
        if self.started:
            self.free += (now - self.changed) * max(0, self.lanes - self.running)
        self.running, self.changed, self.started = running, now, self.started or running > 0


@dataclass(frozen=True)
class Use:
    """A run's use of a slot: its traffic, and the function that enrols an actor in the run."""

    traffic: "Traffic"
    enrol: Callable[[Any], Any] = lambda actor: None


@dataclass(frozen=True)
class Patience:
    """The time that a call may take: `factor` times that of the slowest call so far, in proportion to its cost.

    It may always take `seconds`. A factor of 0 means no limit.
    """

    factor: float = 0.0
    seconds: float = 0.0


@dataclass(eq=False)
class Traffic:
    """What all calls of one run share. Calls of a lower rank are handed out first.

    `events` are those of actors that work for this run. `measured` has, for each kind of call, the most seconds that a
    call took for a unit of its cost, and `slowest` its state after the last round or evaluation.
    """

    rank: int
    patience: Patience = Patience()
    events: list[Event] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    over: bool = False  # nobody waits for its calls any more

    def learn(self) -> None:
        """Take over the measured times at the end of a round or an evaluation; later errands go by them."""
        self.slowest = dict(self.measured)


@dataclass(eq=False)
class Errand:
    """The calls of one handle, of one evaluation, or of one enrolment: their occupancy, retries and deadlines.

    `retries` counts the calls made again. `slowest` are the paces known when it began, and set its deadlines; of a kind
    that was unknown then, what is learned later does.
    """

    traffic: Traffic
    lanes: int = 1
    name: str = field(default_factory=lambda: uuid4().hex)
    """By which its calls are asked to stop, among those of all drivers."""
    retries: int = 0
    over: bool = False  # nobody waits for its calls any more
    occupancy: "Occupancy" = field(init=False)
    slowest: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.occupancy, self.slowest = Occupancy(self.lanes), self.traffic.slowest

    def time_for(self, ticket: "Ticket") -> float | None:
        """The seconds that a call may take; None while nothing of its kind has been measured."""
        known, patience = {**self.traffic.slowest, **self.slowest}, self.traffic.patience
        pace = known.get(ticket.kind)
        if ticket.within or pace is None:
            return ticket.within or None
        # A machine may have become slower, so each try may take twice as long as the one before.
        return max(patience.seconds, patience.factor * pace * ticket.cost) * 2.0 ** (ticket.tries - 1)


@dataclass(eq=False)
class Ticket:
    """A requested call. `call(handle)` makes it on the actor of any of `slots` and gives its references.

    The first reference is of a small object. Calls of a `kind` take time in proportion to their `cost`. A call with
    `within` may take that many seconds, whatever its cost. Once all of `slots` are gone, the call may be made on those
    that `elsewhere` gives. A call with `drop` is not made again if its actor is lost while it runs.
    """

    call: Callable[[Any], list[Any]]
    slots: Sequence[Slot]
    errand: Errand
    kind: str = ""
    cost: float = 0.0
    within: float = 0.0
    clients: Sequence[int] = ()
    elsewhere: Callable[[], Sequence[Slot]] = tuple
    drop: bool = False
    overdue: bool = False
    tries: int = 0
    misses: int = 0
    refs: list[Any] = field(default_factory=list)
    result: Any = None  # the object of the first reference
    done: bool = False
    error: Exception | None = None

    @property
    def traffic(self) -> Traffic:
        return self.errand.traffic

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it."""
        return not (self.errand.over or self.errand.traffic.over)

    def let_go(self) -> None:
        """Free what it holds, but for the reference that tells when its actor is free again."""
        self.call, self.elsewhere, self.result = no_call, tuple, None
        del self.refs[1:]


def no_call(actor: Any) -> list[Any]:
    """The call of a ticket that nobody wants any more."""
    raise AssertionError("a call that was cancelled is not made")


def note(event: Event, *traffics: Traffic) -> None:
    """Note an event once for each of these runs."""
    for traffic in dict.fromkeys(traffics):
        traffic.events.append(event)
