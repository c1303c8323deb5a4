"""Saving a checkpoint, reading it back, and checking that it belongs to the run that goes on.

The last two checkpoints are kept, so that one damaged on disk costs some rounds and not the run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedray.core.atomic import writing
from fedray.core.errors import START_OVER, BadInputError, DamagedError
from fedray.core.newer import with_neutral
from fedray.core.settings import flatten
from fedray.core.source import fedray_source
from fedray.core.updates import Vectors
from fedray.run import checkpoint, segments
from fedray.run.played import Played, describe_change, read_played, refuse_another
from fedray.run.prepared import Job
from fedray.run.run_columns import versions
from fedray.run.segments import Segment
from fedray.server.population import Population


def save(
    job: Job, state: Vectors, t: int, clients: Population, played: Mapping[str, Any], before: tuple[Segment, ...] = ()
) -> tuple[Segment, ...]:
    """A checkpoint of everything that round t + 1 starts from; the one before it is kept.

    `played` says what has trained the run, as `runs` does. `before` are the segments of the checkpoint before it, and
    those of this one are returned.
    """
    with writing(job.folder):
        listed = segments.save(job.checkpoint, before, t, clients)
        meta = {"run": job.run, "round": t, "memories": listed, **played, **identity(job), **versions(job)}
        meta["fedray_source"] = fedray_source()
        checkpoint.save(job.checkpoint, state, meta, keep=job.checkpoint_before)
        segments.remove(job.checkpoint, (*before, *listed))
    return listed


@dataclass(frozen=True)
class Past:
    """The content of a checkpoint: the server's state and the clients' memories after round t, and a notice about it.

    The memories are read from their files as they are asked for, so they can be asked for once. `damaged` is the newer
    checkpoint where that cannot be read.
    """

    t: int
    state: Vectors
    memories: Iterator[tuple[int, Vectors]]
    notice: str
    damaged: Path | None = None
    played: tuple[Played, ...] = ()
    """What trained its rounds, one after another."""
    segments: tuple[Segment, ...] = ()
    """The files that its memories are in, where they are not in the checkpoint, as up to fedray 0.3."""
    shorter: str = ""
    """The run that this past is of, where that is another one, with fewer rounds (longer.py)."""

    def notice_by(self, now: Played) -> str:
        """The notice where `now` goes on with the run."""
        return self.notice + (describe_change(self.played[-1], now) if self.played else "")

    def drop_damaged(self) -> None:
        """Remove the newer checkpoint, so that the next one to be saved takes its place and not this one's."""
        if self.damaged:
            self.damaged.unlink(missing_ok=True)


def read_past(job: Job) -> Past | None:
    """The run's past, None where it has none; BadInputError where that is damaged or another experiment's.

    Where the last checkpoint is damaged, or missing, the past is that of the one before it.
    """
    why = ""
    for path in (job.checkpoint, job.checkpoint_before):
        if path.exists():
            try:
                past = read_checkpoint(job, path)
            except DamagedError as error:
                why = f"{why}, and {error}" if why else str(error)
            else:
                refuse_another(job, past.played)
                said = f"{why}; going on from the one before it: {past.notice}"
                return replace(past, notice=said, damaged=job.checkpoint) if why else past
    if why:
        raise BadInputError(f"{why}; {START_OVER}")
    return None


def read_checkpoint(job: Job, path: Path, going_on: str = "") -> Past:
    """The past that this file holds. Its notice begins with `going_on`, by default that the run is continued."""
    state, meta, memories = checkpoint.load(path)
    mine, t = identity(job), meta.get("round")
    if type(t) is not int or not 1 <= t <= job.experiment.rounds:
        raise DamagedError(f"the checkpoint {path} is damaged: it is of round {t!r}")
    theirs = {name: meta.get(name) for name in mine}
    for each in (mine, theirs):
        each["settings"] = with_neutral(each["settings"] if isinstance(each["settings"], Mapping) else {})
    first = job.experiment.algorithm.init(*job.vectors)
    if mine != theirs or {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in first.items()}:
        other = difference(theirs, mine)
        raise BadInputError(f"the checkpoint {path} is of another experiment ({other}); {START_OVER}")
    here = versions(job)
    then = {name: meta.get(name) for name in here}
    changed = [f"{name.split('_')[0]} {then[name]} -> {here[name]}" for name in here if then[name] != here[name]]
    changed += source_change(meta.get("fedray_source"))
    notice = going_on or f"continuing run {job.run} after round {t}"
    if changed:
        notice += f"; software changed since ({', '.join(changed)}), so the bits may differ from an undisturbed run"
    played = read_played(job, meta, mine["settings"])
    listed, apart = segments.read(job.checkpoint, meta.get("memories") or ())
    return Past(t, state, apart if listed else memories, notice, played=tuple(played), segments=listed)


def source_change(then: Any) -> list[str]:
    """In words, that fedray's source is another than `then`; empty where it is not, or `then` is not known."""
    here = fedray_source()
    return [f"fedray's source {then} -> {here}"] if then and then != here else []


def identity(job: Job) -> dict[str, Any]:
    """The settings, by dotted name, and the data that a checkpoint and the run that continues it must share."""
    return {"settings": identifying(job.experiment.stored_settings()), "data": job.fingerprint}


def identifying(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what a run is, by dotted name, of nested ones. A file of weights is known by its content,
    which a run's id has, and not by its place."""
    found = {name: value for name, value in flatten(tree) if in_identity(name)}
    return {name: "a file" if name == "model.init" and value else value for name, value in found.items()}


def in_identity(name: str) -> bool:
    """Whether a setting says what a run is, and not where it is nor what it writes."""
    return not name.startswith(("cluster.", "output.", "data.root"))


def difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """The settings or the data in which two identities differ, in words."""
    a, b = theirs["settings"], mine["settings"]
    differing = [
        f"{name} {a.get(name)!r} there, {b.get(name)!r} here" for name in sorted({*a, *b}) if a.get(name) != b.get(name)
    ]
    return "; ".join(differing) or ("other data" if theirs.get("data") != mine["data"] else "other shapes")
