"""A run goes on where its checkpoint was written: what is saved, given back, and must match."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedray import checkpoint
from fedray.errors import BadInputError
from fedray.experiment import flatten
from fedray.job import Job, versions
from fedray.server import Population
from fedray.updates import Vectors


def save(job: Job, state: Vectors, t: int, clients: Population) -> None:
    """A checkpoint of everything that round t + 1 starts from."""
    arrays = {f"state/{name}": vector for name, vector in state.items()}
    for client, memory in clients.memories():
        arrays |= {f"memory/{client}/{name}": vector for name, vector in memory.items()}
    checkpoint.save(job.checkpoint, arrays, {"run": job.run, "round": t, **identity(job), **versions()})


def restore(job: Job, state: Vectors, clients: Population) -> tuple[Vectors, int, str]:
    """The state and round of the run's checkpoint, with the clients' memories given back, and a sentence about it.

    `state` is the initial one: the checkpoint must hold the same vectors.
    """
    arrays, meta = checkpoint.load(job.checkpoint)
    mine = identity(job)
    theirs = {name: meta.get(name) for name in mine}
    found = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}
    if mine != theirs or any(found.get(name, np.empty(0)).shape != array.shape for name, array in state.items()):
        raise BadInputError(
            f"the checkpoint {job.checkpoint} is of another experiment ({difference(theirs, mine)}); "
            "remove it to start this run over"
        )
    memories: dict[int, Vectors] = {}
    for name, array in arrays.items():
        if name.startswith("memory/"):
            _, number, key = name.split("/", 2)
            memories.setdefault(int(number), {})[key] = array
    for client, memory in memories.items():
        clients.remember(client, memory)
    notice = f"continuing run {job.run} after round {meta['round']}"
    here = versions()
    changed = [
        f"{name.removesuffix('_version')} {meta[name]} -> {here[name]}" for name in here if meta[name] != here[name]
    ]
    if changed:
        notice += f"; versions changed since ({', '.join(changed)}), so the bits may differ from an undisturbed run"
    return found, int(meta["round"]), notice


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
