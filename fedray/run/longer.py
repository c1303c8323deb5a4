"""A longer run goes on from a shorter one: same settings, data and code, more rounds, in the same results folder.

The shorter run finished and kept its last checkpoint (`output.keep_checkpoint`). The longer one copies its rows and its
checkpoint, and is then as if it had played those rounds itself. The shorter one's files are only read.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from fedray.core.errors import START_OVER, BadInputError
from fedray.results.files import rounds_planned
from fedray.results.taken import Line, lines_of
from fedray.run.played import asked_otherwise, describe_asked
from fedray.run.prepared import Job
from fedray.run.resume import Past, read_checkpoint

read_rounds = lru_cache(maxsize=100_000)(rounds_planned)
"""The planned rounds by a run's row, where they never change."""

NOT_KEPT = ", since output.keep_checkpoint was false"


class Found(NamedTuple):
    """The past that a shorter run is, and its rounds as lines of a journal; or why a shorter run is none."""

    past: Past | None = None
    lines: Sequence[Line] = ()
    why: str = ""


def find(job: Job) -> Found:
    """The longest shorter run from which this one can go on. Of those that are none, `why` is about the longest."""
    why = ""
    for shorter in shorter_runs(job):
        try:
            past, lines = take(job, shorter)
        except BadInputError as error:
            why = why or " ".join(str(error).removesuffix(f"; {START_OVER}").split())
        else:
            return Found(replace(past, notice=f"{why}; {past.notice}" if why else past.notice), lines)
    return Found(why=why)


def shorter_runs(job: Job) -> Iterator[Job]:
    """The finished runs beside it with fewer rounds and all else alike, the longest first."""
    planned = set()
    for path in job.folder.glob(f"runs/{job.run.rpartition('-')[0]}-*.parquet"):
        with suppress(BadInputError):  # `load` tells of it
            planned.add(read_rounds(path))
    for rounds in sorted(rounds for rounds in planned if rounds and rounds < job.experiment.rounds)[::-1]:
        shorter = job.with_rounds(rounds)
        with suppress(BadInputError):
            if shorter.read_status() == "finished":
                yield shorter


def take(job: Job, shorter: Job) -> tuple[Past, list[Line]]:
    """The past and the rounds of a finished shorter run; BadInputError where this one cannot go on from it."""
    rounds = shorter.experiment.rounds
    which = f"run {shorter.run} of {rounds} rounds"
    if t := first_other_rate(job, shorter):
        mine, theirs = (each.experiment.algorithm.learning_rate(t, each.experiment.rounds) for each in (job, shorter))
        raise BadInputError(
            f"{which} had the learning rate {theirs:.6g} in round {t}, which is {mine:.6g} in one of "
            f"{job.experiment.rounds} (algorithm.lr_schedule = {job.experiment.algorithm.lr_schedule})"
        )
    if not shorter.checkpoint.exists():
        raise BadInputError(f"{which} has no checkpoint{'' if shorter.keeps_checkpoint else NOT_KEPT}")
    past = read_checkpoint(shorter, shorter.checkpoint, f"going on from run {shorter.run} after its {rounds} rounds")
    if past.t != rounds:
        raise BadInputError(f"{which} has no checkpoint of its last round{NOT_KEPT}")
    if others := asked_otherwise(job, past.played):
        there, here = describe_asked(job, others)
        raise BadInputError(f"{which} was trained with {there}, and {here} is asked for")
    return replace(past, shorter=shorter.run, segments=()), lines_of(shorter.folder, shorter.run, rounds)


def first_other_rate(job: Job, shorter: Job) -> int:
    """The first round of a shorter run that has another learning rate in this one; 0 where there is none."""
    rate, rounds = job.experiment.algorithm.learning_rate, shorter.experiment.rounds
    return next((t for t in range(1, rounds + 1) if rate(t, rounds) != rate(t, job.experiment.rounds)), 0)


def rounds_taken(job: Job) -> int:
    """The rounds that a run without a checkpoint would take over, as far as the names of files tell; otherwise 0."""
    if job.checkpoint.exists() or job.checkpoint_before.exists() or job.ended:
        return 0
    usable = (each for each in shorter_runs(job) if each.checkpoint.exists() and not first_other_rate(job, each))
    return next((each.experiment.rounds for each in usable), 0)
