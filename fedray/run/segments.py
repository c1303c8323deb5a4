"""What clients remember, in files beside the checkpoint: each holds the memories that changed since the one before.

A segment is a file of the checkpoint's own format (checkpoint.py), written once and named for its round. A checkpoint
lists the segments that it needs with their digests, the oldest first; the newest one that has a client has its memory.
Where less than half of what is in them would still count, the next segment has all memories, and the list begins anew.
A segment goes once neither of the two checkpoints lists it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedray.core.errors import BadInputError, DamagedError
from fedray.core.updates import Vectors
from fedray.run import checkpoint
from fedray.server.population import Population

MOST = 100  # segments of a checkpoint; each is an open file while a run goes on
Memory = tuple[int, Vectors]


class Segment(NamedTuple):
    """A segment as a checkpoint lists it: the round after which it was written, its digest, and its clients' number."""

    t: int
    digest: str
    clients: int


def path_of(main: Path, t: int) -> Path:
    """The segment of round t beside the checkpoint `main`."""
    return main.with_name(f"{main.stem}.memories-{t}.safetensors")


def paths_of(main: Path) -> list[Path]:
    """All segments beside the checkpoint `main`, and unfinished ones of writers that were killed."""
    beginning = f"{main.stem}.memories-"
    return sorted(path for path in main.parent.glob("*") if path.name.removeprefix(".").startswith(beginning))


def save(main: Path, before: tuple[Segment, ...], t: int, clients: Population) -> tuple[Segment, ...]:
    """Write the memories after round t that the segments `before` lack, and return all that a checkpoint has to list.

    It is durable once this returns. Nothing that a checkpoint lists is changed.
    """
    since = before[-1].t if before else None
    changed, everyone = clients.count_memories(t, since), clients.count_memories(t)
    if since is not None and not changed:
        return before
    if len(before) >= MOST or sum(each.clients for each in before) + changed > 2 * everyone:
        before, since, changed = (), None, everyone
    if not changed:
        return ()
    digest = checkpoint.save(path_of(main, t), {}, {"round": t}, clients.memories(t, since), changed)
    return (*before, Segment(t, digest, changed))


def read(main: Path, listed: Any) -> tuple[tuple[Segment, ...], Iterator[Memory]]:
    """The segments that a checkpoint lists, and the memories in them, each read when it is asked for.

    DamagedError where one is missing, damaged or another, before anything is returned.
    """
    segments = parsed(main, listed)
    opened = []
    for segment in reversed(segments):
        path = path_of(main, segment.t)
        try:
            _, _, memories = checkpoint.load(path)
            same = checkpoint.digest_of(path) == segment.digest
        except BadInputError as error:
            raise DamagedError(f"the checkpoint {main} needs {path.name}, and {error}") from None
        if not same:
            raise DamagedError(f"the checkpoint {main} is damaged: {path.name} is not the file that it was saved with")
        opened.append(memories)
    return segments, newest(opened)


def listed_by(main: Path) -> tuple[Segment, ...]:
    """The segments that the checkpoint `main` lists, of which none is read; DamagedError where it is damaged."""
    _, meta, _ = checkpoint.load(main)
    return parsed(main, meta.get("memories") or ())


def parsed(main: Path, listed: Any) -> tuple[Segment, ...]:
    try:
        return tuple(Segment(int(t), str(digest), int(clients)) for t, digest, clients in listed)
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"the checkpoint {main} is damaged: its list of memories says {error}") from None


def newest(opened: list[Iterator[Memory]]) -> Iterator[Memory]:
    """The memories of segments, the newest segment first, each client's once."""
    seen: set[int] = set()
    for memories in opened:
        for client, memory in memories:
            if client not in seen:
                seen.add(client)
                yield client, memory
            del memory  # before the next one is read


def remove(main: Path, kept: tuple[Segment, ...] = ()) -> None:
    """Remove the segments that are not in `kept`, and unfinished ones."""
    names = {path_of(main, segment.t).name for segment in kept}
    for path in paths_of(main):
        if path.name not in names:
            path.unlink(missing_ok=True)
