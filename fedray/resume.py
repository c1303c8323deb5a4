"""A run goes on where its checkpoint was written: what is saved, given back, and must match."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedray import checkpoint
from fedray.errors import BadInputError
from fedray.experiment import flatten
from fedray.job import Job
from fedray.server import Population
from fedray.updates import Vectors


def save(job: Job, state: Vectors, t: int, clients: Population) -> None:
    """A checkpoint of everything that round t + 1 starts from."""
    meta = {"run": job.run, "round": t, **identity(job), **job.versions}
    trained = min(len(clients), t * job.experiment.cohort)  # no more clients than these remember anything
    checkpoint.save(job.checkpoint, state, meta, clients.memories(t), at_most=trained)


@dataclass(frozen=True)
class Past:
    """What a checkpoint holds: the server's state and the clients' memories after round t, and a sentence about it.

    The memories are read from the file as they are asked for, so they can be asked for once.
    """

    t: int
    state: Vectors
    memories: Iterator[tuple[int, Vectors]]
    notice: str


def read_past(job: Job) -> Past | None:
    """The run's past, None where it has none; BadInputError where its checkpoint is damaged or another experiment's."""
    if not job.checkpoint.exists():
        return None
    state, meta, memories = checkpoint.load(job.checkpoint)
    mine = identity(job)
    theirs = {name: meta.get(name) for name in mine}
    first = job.experiment.algorithm.init(*job.vectors)
    if mine != theirs or {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in first.items()}:
        raise BadInputError(
            f"the checkpoint {job.checkpoint} is of another experiment ({difference(theirs, mine)}); "
            "remove it to start this run over"
        )
    here = job.versions
    then = {name: meta.get(name) for name in here}
    changed = [f"{name.split('_')[0]} {then[name]} -> {here[name]}" for name in here if then[name] != here[name]]
    notice = f"continuing run {job.run} after round {meta['round']}"
    if changed:
        notice += f"; versions changed since ({', '.join(changed)}), so the bits may differ from an undisturbed run"
    return Past(int(meta["round"]), state, memories, notice)


def identity(job: Job) -> dict[str, Any]:
    """What must match between a checkpoint and the run that would continue it, as dotted plain values."""
    settings = dict(flatten(job.experiment.settings()))
    kept = {
        name: value for name, value in settings.items() if not name.startswith(("cluster.", "output.", "data.root"))
    }
    return {"settings": kept, "data": job.fingerprint}


def difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """What tells two identities apart, in words."""
    a, b = theirs.get("settings") or {}, mine["settings"]
    differing = [
        f"{name} {a.get(name)!r} there, {b.get(name)!r} here" for name in sorted({*a, *b}) if a.get(name) != b.get(name)
    ]
    return "; ".join(differing) or ("other data" if theirs.get("data") != mine["data"] else "other shapes")
