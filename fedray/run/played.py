"""What trains a run here: the engine, the blocks, and the device.

A run id has the engine and the blocks that `auto` is on a CPU (`Experiment.resolved`), so that a run has the same id
wherever it is. On a GPU `auto` may be something else. What trained a run is in its row of `runs` and in its
checkpoints, and an engine or a number of blocks that was asked for never takes over what `auto` trained otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedray.cluster.plan import MOST_AUTOMATIC
from fedray.core.errors import BadInputError, DamagedError
from fedray.results.files import read_row
from fedray.run.checks import fault_of_own_algorithm, fault_of_own_loss
from fedray.run.prepared import Job
from fedray.training.device import has_own_memory
from fedray.training.fused.version import FORMS_VERSION

MOST_IN_A_BLOCK = 50  # clients, fused on a GPU: a cohort of 400 has work for eight of them


@dataclass(frozen=True)
class Played:
    """What trains a run, or has trained its rounds up to `rounds`."""

    engine: str
    blocks: int
    device: str
    """Empty where that is not known."""
    forms_version: int | None = None
    """FORMS_VERSION; None where no convolution is computed by the fused engine."""
    rounds: int | None = None


def decide(job: Job, device: str) -> Played:
    """What trains this run on a device. It follows from the settings and the model alone, so that the bits do."""
    asked, e, on_gpu = job.asked, job.experiment, has_own_memory(device)
    engine, blocks = str(e.engine), e.blocks or 1
    if on_gpu and asked.engine is None and fuses_on_a_gpu(job):
        engine = "fused"
    if on_gpu and asked.blocks is None and engine == "fused":
        blocks = -(-e.cohort // MOST_IN_A_BLOCK)
    model = e.model
    written_out = model.is_written_out and not model.side(job.recipe.shape)  # without any convolution
    return Played(engine, blocks, device, FORMS_VERSION if engine == "fused" and not written_out else None)


def fuses_on_a_gpu(job: Job) -> bool:
    """Whether `engine = auto` is fused on a GPU, of a run that is plain on a CPU.

    It is where there are more clients than get an actor each, and where it can be. An algorithm of the user's own is
    tried.
    """
    e = job.experiment
    if e.clients <= MOST_AUTOMATIC or e.cluster.clients_per_actor == 1:
        return False
    faults = fault_of_own_algorithm(job, "fused") or fault_of_own_loss(job, "fused")
    return not (e.unfit_to_fuse or job.blueprint.unfit_to_fuse or faults)


def read_played(job: Job, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Played]:
    """What has trained a run by its row of `runs` or the meta of its checkpoint, the last one last.

    Files from before there were these columns were trained as their `settings` say.
    """
    try:
        earlier = [Played(**each) for each in json.loads(found.get("played_before") or "[]")]
        engine = str(found.get("engine") or settings.get("engine"))
        version = found.get("forms_version") or (1 if engine == "fused" else None)
        blocks = int(found.get("blocks") or settings.get("blocks") or 1)
        return [*earlier, Played(engine, blocks, str(found.get("device") or ""), version)]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"the record of what trained run {job.run} in {job.folder}/ is damaged: {error}") from None


def played_columns(now: Played, before: Sequence[Played]) -> dict[str, Any]:
    """The columns of `runs`, and the meta of a checkpoint, that say what trains a run, and what has trained it."""
    columns = asdict(now)
    del columns["rounds"]
    return {**columns, "played_before": json.dumps([asdict(each) for each in before]) if before else None}


def followed(before: Sequence[Played], rounds: int, now: Played) -> list[Played]:
    """What trained a run before `now`, which goes on after `rounds` rounds that `before` trained, its last one last."""
    if not before:
        return []
    *earlier, last = before
    return earlier if not differing(last, now) else [*earlier, replace(last, rounds=rounds)]


ALIKE_ON_A_CPU = {1, 2}
"""Versions of the fused engine's convolutions that differ on a GPU alone."""


def differing(then: Played, now: Played) -> list[str]:
    """The fields in which two differ, without those that are not known of one."""
    alike = then.device == now.device == "cpu" and {then.forms_version, now.forms_version} <= ALIKE_ON_A_CPU
    names = ["device", "engine", "blocks", *([] if alike else ["forms_version"])]
    known = [name for name in names if getattr(then, name) not in ("", None) and getattr(now, name) not in ("", None)]
    return [name for name in known if getattr(then, name) != getattr(now, name)]


WORDS = {
    "device": "on {}",
    "engine": "with engine = {}",
    "blocks": "in blocks = {}",
    "forms_version": "by version {} of the fused engine's convolutions",
}


def describe_change(then: Played, now: Played) -> str:
    """The end of the notice of a run that goes on otherwise than it was trained; empty where it does not."""
    names = differing(then, now)
    if not names:
        return ""
    was, is_now = (", ".join(WORDS[name].format(getattr(each, name)) for name in names) for each in (then, now))
    comma = "," * (len(names) > 1)
    return f"; it was trained {was}{comma} and now is {is_now}, so the bits differ from an undisturbed run"


def refuse_another(job: Job, found: Sequence[Played]) -> None:
    """Raise BadInputError where the settings ask for an engine or blocks other than those that trained the run."""
    if others := asked_otherwise(job, found):
        there, here = describe_asked(job, others)
        names = " and ".join(others)
        raise BadInputError(
            f"run {job.run} in {job.folder}/ was trained with {there}, which auto chose there, and {here} has the same "
            f"id; set another output.name, or leave {names} on auto to take it as it is"
        )


def asked_otherwise(job: Job, found: Sequence[Played]) -> dict[str, Played]:
    """The settings among `engine` and `blocks` that ask for another than trained a run, each with what trained it."""
    asked = {name: value for name in ("engine", "blocks") if (value := getattr(job.asked, name)) is not None}
    for each in found:
        if others := [name for name in asked if getattr(each, name) != asked[name]]:
            return dict.fromkeys(others, each)
    return {}


def describe_asked(job: Job, others: Mapping[str, Played]) -> tuple[str, str]:
    """What trained a run and what is asked for, in words; `others` are as in `asked_otherwise`."""
    there = " and ".join(f"{name} = {getattr(each, name)}" for name, each in others.items())
    here = " and ".join(f"{name} = {getattr(job.asked, name)}" for name in others)
    device = next(iter(others.values())).device
    return there + (f" on {device}" if device else ""), here


def check_ended(job: Job) -> None:
    """Raise BadInputError where a run that has ended is not the one that is asked for, though it has its id."""
    (row,) = read_row(job.folder / "runs" / f"{job.run}.parquet").to_pylist()
    refuse_another(job, read_played(job, row, json.loads(row["settings"] or "{}")))
