"""Runs of a sweep that go on from others of it, which differ in `rounds` alone and keep their checkpoints."""

from collections.abc import Sequence

from fedray.run.longer import first_other_rate, rounds_taken
from fedray.run.prepared import Job


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """The runs in groups to be played one after another: each comes after all those from which it may go on."""
    before = shorter_ones(jobs)
    number: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: job.experiment.rounds):
        number[job.run] = 1 + max((number[each.run] for each in before[job.run]), default=-1)
    return [[job for job in jobs if number[job.run] == n] for n in range(max(number.values(), default=-1) + 1)]


def rounds_before(jobs: Sequence[Job], fresh: bool) -> dict[str, int]:
    """The rounds that each run, which has none of its own yet, will take over from a shorter one, here or on disk."""
    before = shorter_ones(jobs)
    here = {job.run: max((each.experiment.rounds for each in before[job.run]), default=0) for job in jobs}
    return {job.run: max(here[job.run], 0 if fresh else rounds_taken(job)) for job in jobs}


def shorter_ones(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """For each run those of these from which it can go on."""
    if not any(job.experiment.output.keep_checkpoint for job in jobs):
        return {job.run: [] for job in jobs}
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.with_rounds(1).run, []).append(job)
    return {
        job.run: [
            each
            for each in group
            if each.experiment.rounds < job.experiment.rounds
            and each.experiment.output.keep_checkpoint
            and not first_other_rate(job, each)
        ]
        for group in alike.values()
        for job in group
    }
