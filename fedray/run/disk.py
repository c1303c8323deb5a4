"""The disk that a run needs: checkpoints, models, and the objects that Ray spills. Arithmetic, and a look at the disk.

Tables are left out: a million rows of `clients` are some tens of megabytes.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedray.cluster.capacity import spill_folder, store_here
from fedray.cluster.gpus import MIB, mib
from fedray.core.errors import BadInputError
from fedray.run.longer import rounds_taken
from fedray.run.needs import memory_bytes, needs_of, remembering
from fedray.run.prepared import Job

KEPT = 3  # the last two checkpoints, and the one that is being written
TIGHT = 0.8  # of the free bytes: from here on there is a notice
SPILLS_AT = 0.8  # of its object store, Ray's object_spilling_threshold
LEFT_FREE = 0.05  # of a disk, below which Ray spills nothing


@dataclass(frozen=True)
class Part:
    """Some bytes that a run writes into a folder, what they are, and how there would be fewer."""

    kind: Literal["checkpoints", "kept", "models", "spilled"]
    what: str
    size: int
    folder: Path
    fewer: str
    sum: str = ""
    """Its summands."""
    left_free: float = 0.0
    """The part of the disk that is left free by whoever writes them."""

    @property
    def disk(self) -> tuple[int, int]:
        """The disk's number, and the bytes that may be written there."""
        nearest = self.folder.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        usage = shutil.disk_usage(nearest)
        return nearest.stat().st_dev, max(0, usage.free - int(self.left_free * usage.total))


def parts_of(job: Job, fresh: bool = False, at_once: int = 1) -> list[Part]:
    """The parts on disk of a run at their largest, with `at_once` such runs in flight.

    The run's files count that are there already, since new ones take their place, but not where it starts over `fresh`.
    """
    found = [*checkpoints(job, fresh, at_once), models(job, fresh)]
    if spilled := spilled_bytes(job, at_once):
        fewer = "raise cluster.object_store, set RAY_TMPDIR to a larger disk or choose fewer clients"
        found.append(Part("spilled", "objects that Ray spills", spilled, spill_folder(), fewer, left_free=LEFT_FREE))
    return [part for part in found if part.size]


def parts_of_all(runs: Sequence[Sequence[Part]]) -> list[Part]:
    """The parts on disk of several runs: all models and kept checkpoints, and the largest of all else."""
    by_kind: dict[str, list[Part]] = {}
    for part in (part for parts in runs for part in parts):
        by_kind.setdefault(part.kind, []).append(part)
    found = {kind: max(parts, key=lambda part: part.size) for kind, parts in by_kind.items()}
    for kind in ("kept", "models"):
        if len(stay := by_kind.get(kind, [])) > 1:
            size, words = sum(part.size for part in stay), f"of {len(stay):,} runs"
            found[kind] = replace(found[kind], sum=words, size=size)
    return list(found.values())


def checkpoints(job: Job, fresh: bool, at_once: int) -> list[Part]:
    """The checkpoints of runs at their largest: the last one that is due, the two before, and what it replaces.

    The one that stays when a run has finished is a part of its own (`output.keep_checkpoint`).
    """
    e, every = job.experiment, job.experiment.output.checkpoint_every
    taken, keeps = 0 if fresh else rounds_taken(job), e.output.keep_checkpoint
    last = e.rounds if keeps else (e.rounds - 1) // every * every  # at its end a run has its tables and its model
    due = min(KEPT, (e.rounds - 1) // every - taken // every + (taken > 0) + keeps)
    state = sum(vector.nbytes for vector in e.algorithm.init(*job.vectors).values())
    each, clients = memory_bytes(job), remembering(e, last)

    def part(kind: Literal["checkpoints", "kept"], what: str, states: int, lists: int, runs: int, fewer: str) -> Part:
        written = min(lists * clients, last * e.cohort)  # a memory that did not change is not written again
        words = f"{states} x {mib(state)} MiB of the server's state"
        if each:
            words += f", and of {clients:,} clients up to {written:,} memories x {each / 2**20:.3g} MiB"
        words += f"; {runs} runs at once" if runs > 1 else ""
        return Part(kind, what, runs * (states * state + each * written), job.folder, fewer, words)

    fewer = (
        "raise output.checkpoint_every, set output.root to a larger disk, or choose fewer clients or a smaller model"
    )
    lists = min(due, 2) if keeps else 0  # a checkpoint lists up to twice what clients remember
    found = [part("checkpoints", "checkpoints", due - keeps, due - lists, at_once, fewer)]
    if keeps:
        fewer = "set output.root to a larger disk, or output.keep_checkpoint = false"
        found.append(part("kept", "a checkpoint that stays", 1, lists, 1, fewer))
    there, left = held(job.checkpoint.parent, job.run, fresh), []
    for one in found:
        left.append(replace(one, size=max(0, one.size - there)))
        there = max(0, there - one.size)
    return left


def models(job: Job, fresh: bool) -> Part:
    """The models that a run leaves, and one more while it is written."""
    output = job.experiment.output
    kept = output.save_model + output.save_best
    each = sum(vector.nbytes for vector in job.vectors) + job.blueprint.frozen_bytes
    size = (kept + 1) * each - held(job.model.parent, job.run, fresh) if kept else 0
    words = f"{kept} x {mib(each)} MiB, and one while it is written"
    fewer = "set output.root to a larger disk, or output.save_model = false"
    return Part("models", "models", max(0, size), job.folder, fewer, words)


def held(folder: Path, run: str, fresh: bool) -> int:
    """The bytes of a run's files in a folder, whose place new ones take."""
    return 0 if fresh else sum(path.stat().st_size for path in folder.glob("*") if path.name.startswith(f"{run}."))


def spilled_bytes(job: Job, at_once: int) -> int:
    """The bytes of the objects of such runs that do not fit into the shared memory of a Ray of their own."""
    cluster = job.experiment.cluster
    if cluster.backend != "ray" or cluster.address != "local":  # the disks of a cluster's nodes are not known
        return 0
    store, room = at_once * needs_of(job).object_store, store_here(cluster)
    return 0 if store <= room else int(store - SPILLS_AT * room)


def check_disk(parts: Sequence[Part]) -> list[str]:
    """Sentences on disks that become nearly full; BadInputError with the arithmetic for one that is too small."""
    notices = []
    for here, free in by_disk(parts):
        size, largest = sum(part.size for part in here), max(here, key=lambda part: part.size)
        sentence = (
            f"{taken(here)} need {mib(size):,} MiB on the disk of {largest.folder}/, but {free // MIB:,} MiB are free"
        )
        if size > free:
            raise BadInputError(f"{sentence}; {largest.fewer}")
        if size > TIGHT * free:
            notices.append(sentence.replace(", but ", ", and only "))
    return notices


def describe_disk(parts: Sequence[Part]) -> str:
    """The parts and the free bytes of their disks, in words."""
    said = [
        f"{taken(here)}; {free // MIB:,} MiB are free on the disk of {here[0].folder}/" for here, free in by_disk(parts)
    ]
    return "; ".join(said) or "nothing but tables"


def by_disk(parts: Sequence[Part]) -> list[tuple[list[Part], int]]:
    """The parts on each disk, and the bytes that may be written there."""
    found: dict[int, tuple[list[Part], int]] = {}
    for part in parts:
        number, free = part.disk
        here, least = found.get(number, ([], free))
        found[number] = [*here, part], min(least, free)
    return list(found.values())


def taken(parts: Sequence[Part]) -> str:
    """The parts with their sizes, in words."""
    *others, last = [f"{part.what} of {mib(part.size):,} MiB{f' ({part.sum})' if part.sum else ''}" for part in parts]
    return f"{', '.join(others)} and {last}" if others else last
