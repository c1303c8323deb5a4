"""What clients remember between rounds, and which of them are at work. Both populations keep theirs here.

A memory changes in two phases. `learn` notes what the clients of a handle would remember, and `keep` makes it count.
What `keep` replaced stays known until a later round's memories are kept, because a run that is interrupted saves the
round before the one that it is in.
"""

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from fedray.server.task import Handle

M = TypeVar("M")


class Memories(Generic[M]):
    """The memory of each client: its vectors, or a reference to them (M)."""

    def __init__(self) -> None:
        self.known: dict[int, M] = {}
        self.kept_in: dict[int, int] = {}  # the round from which on each memory counts
        self.t, self.replaced = 0, dict[int, tuple[M | None, int]]()  # the round of the last `keep`, what it replaced
        self.learned: dict[Handle, Mapping[int, M]] = {}
        self.at_work: dict[int, Handle] = {}

    def hand_out(self, handle: Handle) -> None:
        """Note that clients are at work. ValueError for one that is at work already, for this handle or another."""
        clients = set(handle.clients)
        if busy := sorted(clients & self.at_work.keys()):
            raise ValueError(
                f"client {busy[0]} still has the task of round {self.at_work[busy[0]].task.t}: keep or discard that "
                "handle first"
            )
        if len(clients) != len(handle.clients):
            raise ValueError(f"a client is named twice in one handle: {handle.clients}")
        self.at_work.update(dict.fromkeys(handle.clients, handle))

    def of(self, client: int) -> M | None:
        """A client's memory; None before its first round."""
        return self.known.get(client)

    def take(self, handle: Handle) -> None:
        """Note that a handle is being taken. ValueError where it was taken before, kept or discarded."""
        if handle.state:
            raise ValueError(f"a handle is taken once, and this one was {handle.state} before")
        handle.state = "being taken"

    def learn(self, handle: Handle, memories: Mapping[int, M]) -> None:
        """A handle is taken. `memories` are what its clients will remember if it is kept."""
        handle.state = "taken"
        if memories:
            self.learned[handle] = memories

    def keep(self, handle: Handle, t: int | None = None) -> None:
        """What the handle's clients have learned counts, from round t on; without t, from the task's own.

        ValueError where the handle was not taken, or was kept or discarded before, or a later round is kept already.
        """
        if handle.state != "taken":
            raise ValueError(f"this handle was {handle.state or 'not taken'}, so that it cannot be kept")
        t = handle.task.t if t is None else t
        if t < self.t:
            raise ValueError(f"memories of round {self.t} are kept already, so that none can count from round {t} on")
        self.close(handle, "kept")
        if t != self.t:
            self.replaced, self.t = {}, t
        for client, memory in self.learned.pop(handle, {}).items():
            self.replaced.setdefault(client, (self.known.get(client), self.kept_in.get(client, 0)))
            self.known[client], self.kept_in[client] = memory, t

    def discard(self, handle: Handle) -> None:
        """Nothing of the handle counts. Once more does nothing; ValueError where it was kept before."""
        if handle.state == "kept":
            raise ValueError("this handle was kept, so that it cannot be discarded")
        if handle.state != "discarded":
            self.close(handle, "discarded")
            self.learned.pop(handle, None)

    def close(self, handle: Handle, how: Literal["kept", "discarded"]) -> None:
        handle.state = how
        for client in handle.clients:
            self.at_work.pop(client, None)  # none is where the population was closed before

    def after(self, t: int, since: int | None = None) -> list[tuple[int, M]]:
        """Each client's memory after round t, by client; with `since`, those that changed after that round.

        t is the last round with a `keep`, or the one before it.
        """
        found: dict[int, tuple[M | None, int]] = {c: (each, self.kept_in.get(c, 0)) for c, each in self.known.items()}
        if t < self.t:
            found |= self.replaced
        return [
            (client, memory)
            for client, (memory, kept_in) in sorted(found.items())
            if memory is not None and (since is None or kept_in > since)
        ]

    def remember(self, client: int, memory: M) -> None:
        """Give a client its memory, from outside of any round."""
        self.known[client], self.kept_in[client] = memory, 0

    def clear(self) -> None:
        self.known, self.kept_in, self.replaced, self.learned, self.at_work = {}, {}, {}, {}, {}
