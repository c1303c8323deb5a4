"""What the dispatcher has to do with: tickets, which are calls that were asked for, and slots, the places of actors."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedray.core.updates import Event

IN_FLIGHT = 2  # calls an actor has: one running, one waiting


@dataclass(eq=False)
class Slot:
    """A place for one actor. When it is lost, `respawn` puts a new, enrolled one there, which then has to come up.

    `uses` are those that runs make of it, by run. `busy_since` is when the first of its calls began to run. `starting`
    is the reference that is ready when the new actor has answered, and `deadline` the time until which it may take,
    unless it is `hopeless`. `lost` says that the actor before it was lost, `gone` that the place could not be filled,
    and `why`.
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
        """What an event says of its actor: id, node and process, as far as it has come up."""
        return {name: self.where.get(name) for name in ("actor", "node", "pid")}

    def tell(self, event: Event) -> None:
        """Have every run that uses this place know of it."""
        note(event, *(use.traffic for use in self.uses.values()))

    def give_up(self, why: str) -> None:
        """There will be no actor here."""
        self.gone, self.why, self.starting = True, why, None
        self.tell(Event("place_given_up", why, **self.known))

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


@dataclass(frozen=True)
class Use:
    """A run's use of a slot: its traffic, and how an actor is enrolled in it."""

    traffic: "Traffic"
    enrol: Callable[[Any], Any] = lambda actor: None


@dataclass(frozen=True)
class Patience:
    """How long a call may take: `factor` times what the slowest so far took for its size, and at least `seconds`.

    With a factor of 0 as long as it likes.
    """

    factor: float = 0.0
    seconds: float = 0.0


@dataclass(eq=False)
class Traffic:
    """All calls of one run: those of a lower rank are handed out first. `retries` counts those made again.

    `events` are what has happened to actors at work for this run. `slowest` is how many seconds a call of each kind has
    taken for each unit of its cost, at most; it goes by whole rounds, and `measured` by calls.
    """

    rank: int
    patience: Patience = Patience()
    occupancy: Occupancy = field(default_factory=Occupancy)
    retries: int = 0
    events: list[Event] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    over: bool = False  # nobody waits for its calls any more

    def learn(self) -> None:
        """A round is over, or an evaluation: what was measured counts from now on."""
        self.slowest = dict(self.measured)

    def time_for(self, ticket: "Ticket") -> float | None:
        """The seconds that a call may take; None while nothing of its kind has been measured."""
        pace = self.slowest.get(ticket.kind)
        if ticket.within or pace is None:
            return ticket.within or None
        # A machine may have become slower: each attempt may take twice as long as the one before.
        return max(self.patience.seconds, self.patience.factor * pace * ticket.cost) * 2.0 ** (ticket.tries - 1)


@dataclass(eq=False)
class Ticket:
    """A call that was asked for: on any of `slots`, `call(handle)` gives its references, the first of them small.

    Calls of a `kind` take time in proportion to their `cost`; one with a `within` may take so many seconds. Where none
    of `slots` is left, the call may be made on those that `elsewhere` gives. With `drop` it is not made again when its
    actor is lost while it runs.
    """

    call: Callable[[Any], list[Any]]
    slots: Sequence[Slot]
    traffic: Traffic
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
    result: Any = None  # what the first reference held
    done: bool = False
    error: Exception | None = None


def note(event: Event, *traffics: Traffic) -> None:
    """Have each of these runs know of it, once."""
    for traffic in dict.fromkeys(traffics):
        traffic.events.append(event)
