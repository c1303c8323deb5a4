"""A sweep is played: the checks of all runs, then several in flight, to each rung and to their ends."""

import math
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedray import results
from fedray.cluster.gpus import runs_on_share
from fedray.cluster.plan import Plan, plan, runs_at_once
from fedray.core.errors import BadInputError, BusyError, RunError, StorageError
from fedray.core.interrupt import Interrupt
from fedray.models.blueprint import Blueprint
from fedray.results.recorder import keep_file, lock_of, mark
from fedray.run.checks import check_shards
from fedray.run.fresh import begun, move_aside, next_folder
from fedray.run.needs import needs_of
from fedray.run.opening import open_past, shared_session
from fedray.run.prepared import Job
from fedray.run.run_columns import grouping_columns, run_row
from fedray.run.simulation import run
from fedray.sweep.halving import configuration, score, worse_half
from fedray.sweep.threads import play_all
from fedray.sweep.view import SweepView

if TYPE_CHECKING:
    from fedray.cluster.start import Session

Plans = dict[str, tuple[Plan | None, int]]
"""By run, its reservations, and how many such runs may be in flight."""


@dataclass(frozen=True)
class Sweep:
    """The runs, each once, in order, with what tells them apart; and how they are to be run."""

    file: Path
    jobs: tuple[Job, ...]
    labels: Mapping[str, str]
    axes: tuple[str, ...]
    rungs: tuple[int, ...]
    retry_failed: bool
    fresh: bool
    """Whether all runs are to start over, which is so until what there is of them was moved aside."""
    damaged: tuple[str, ...]
    """What is wrong with the runs that are left out, because what they recorded cannot be read."""

    @property
    def left(self) -> list[Job]:
        """The runs that have not ended, but for those that failed, unless they are to be tried again."""
        if self.fresh:
            return list(self.jobs)
        return [job for job in self.jobs if job.status not in done(self.retry_failed)]


def done(retry_failed: bool) -> tuple[str, ...]:
    """The statuses of runs that are not to be played."""
    return results.FINAL_STATUSES if retry_failed else (*results.FINAL_STATUSES, *results.FAILED_STATUSES)


def play_sweep(sweep: Sweep, most: int | None, watch: SweepView, interrupt: Interrupt) -> None:
    """Play the runs that are left, to each rung and there the worse half out, and then to their ends.

    Raises KeyboardInterrupt after the rounds in play where an interrupt was asked for, StorageError where nothing can
    be written any more.
    """
    session, plans = None, Plans()
    out: set[str] = set()  # runs that were halved
    failed: set[str] = set()  # in this sweep, which tries nothing twice
    with ExitStack() as stack:
        for rung in (*sweep.rungs, None):
            there = recorded(sweep) if rung and not sweep.fresh else {}
            alive = [
                job for job in sweep.left if job.run not in out | failed and there.get(job.run, 0) < (rung or math.inf)
            ]
            if alive and not plans:
                session = stack.enter_context(shared_session(sweep.jobs[0].experiment.cluster))
                plans = check_all(sweep.left, session, most, sweep.fresh)
                if sweep.fresh:
                    move_all_aside(sweep.jobs, watch)
                    sweep = replace(sweep, fresh=False)
                keep_file(sweep.file, sweep.jobs[0].folder)
            for jobs, at_once in together(alive, plans):
                play_together(jobs, at_once, watch, session, rung, interrupt)
                if interrupt.asked:
                    raise KeyboardInterrupt
            failed |= {job.run for job in alive if job.status in results.FAILED_STATUSES}
            if rung:
                out |= halve(rung, [job for job in sweep.jobs if job.run not in out], watch)


def move_all_aside(jobs: Sequence[Job], watch: SweepView) -> None:
    """Move what there is of these runs aside, into one folder; one that is at work elsewhere stays."""
    folder = jobs[0].folder
    into = next((old for job in jobs if (old := begun(folder, job.run))), None)
    for job in jobs:
        with suppress(BusyError), lock_of(folder, job.run):
            into = move_aside(folder, job.run, into) or into
    if into:
        watch.notice(f"what there was of these runs is in {into}/ now")


def play_together(
    jobs: Sequence[Job],
    most: int,
    watch: SweepView,
    session: "Session | None",
    until: int | None,
    interrupt: Interrupt,
) -> None:
    stop = session.pool.dispatcher.stop if session else lambda: None
    play_all(jobs, lambda job: play(job, watch, session, until, interrupt), min(most, len(jobs)), stop)


def recorded(sweep: Sweep) -> dict[str, int]:
    """The last round that is recorded of each run."""
    folder = sweep.jobs[0].folder
    rounds = results.load(folder.name, folder.parent).rounds
    return {str(run): int(t) for run, t in rounds.groupby("run")["round"].max().items()}


def together(jobs: Sequence[Job], plans: Plans) -> list[tuple[list[Job], int]]:
    """The runs that want the same reservations, in order, and how many of them may be in flight."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        planned, _ = plans[job.run]
        groups.setdefault(planned and (planned.num_cpus, planned.num_gpus), []).append(job)
    return [(group, min(plans[job.run][1] for job in group)) for group in groups.values()]


def play(job: Job, watch: SweepView, session: "Session | None", until: int | None, interrupt: Interrupt) -> None:
    """Play one run; what goes wrong is shown and recorded as its status, and the sweep goes on.

    StorageError where nothing can be written any more, which is the end of the sweep.
    """
    if interrupt.asked:
        return
    try:
        run(job.experiment, watch, session, until, interrupt=interrupt)
    except BusyError as error:
        watch.fail(job, str(error), "left to another process")
    except StorageError:
        raise
    except Exception as error:
        said = isinstance(error, BadInputError | RunError)
        why = str(error) if said else traceback.format_exc()
        if job.status in (None, "running", "interrupted", "halved"):  # it never came to its rounds
            record_failure(job, why)
        watch.fail(job, why)


def record_failure(job: Job, why: str) -> None:
    """Give the run its status."""
    e, ready = job.experiment, Job(job.experiment)
    try:
        known = {**grouping_columns(ready), **run_row(ready)}
    except Exception:  # perhaps it is its data, or its model, that failed
        names = {"algorithm": e.chosen_name("algorithm"), "model": e.model.name, "dataset": e.data.dataset}
        known = {**names, "clients": e.clients, "cohort": e.cohort, "seed": e.seed, "settings": job.settings_json}
    mark(e.output.root, e.output.name, job.run, "failed", why, known)


def halve(rung: int, jobs: Sequence[Job], watch: SweepView) -> set[str]:
    """The runs that end at this rung, the worse half of these; they are marked, and keep what they recorded."""
    folder = jobs[0].folder
    rounds = results.load(folder.name, folder.parent).rounds
    by_run = {
        str(run): rows.astype(object).where(rows.notna(), None).to_dict("records")
        for run, rows in rounds.groupby("run")
    }
    members: dict[str, list[Job]] = {}
    scores: dict[str, list[float]] = {}
    for job in jobs:
        key, lost = configuration(job.experiment), job.status in (*results.FAILED_STATUSES, "diverged")
        members.setdefault(key, []).append(job)
        scores.setdefault(key, []).append(-math.inf if lost else score(job.experiment, by_run.get(job.run, []), rung))
    losers = worse_half(scores)
    stopped = [job for key in losers for job in members[key]]
    for job in stopped:
        if job.status in ("interrupted", "halved"):
            why = f"--halve stopped it after round {rung}, being in the worse half of {len(scores)} configurations"
            mark(folder.parent, folder.name, job.run, "halved", why, {})
    watch.halve(rung, len(scores) - len(losers), stopped)
    return {job.run for job in stopped}


def check_all(jobs: Sequence[Job], session: "Session | None", most: int | None, fresh: bool) -> Plans:
    """`check` for each run; a model is built once, though other seeds begin with other parameters."""
    blueprints: dict[Any, Blueprint] = {}
    found = {}
    for job in jobs:
        own = Job(job.experiment)  # it holds the model and the shards only as long as it takes
        key = (own.recipe.model, own.recipe.shape, own.recipe.classes)
        if key in blueprints:
            own.blueprint = blueprints[key]
        found[job.run] = check(own, session, most, fresh)
        blueprints[key] = own.blueprint
    return found


def check(job: Job, session: "Session | None", most: int | None, fresh: bool) -> tuple[Plan | None, int]:
    """Make the other checks of a run that has not ended, as BadInputError; nothing is on disk yet.

    Returns its reservations, where nobody else can change what there is to reserve, and how many such runs may be in
    flight.
    """
    experiment = job.experiment
    check_shards(job)
    open_past(job, fresh)
    if fresh:
        next_folder(job.folder)
    if session is None:
        if most and most > 1:
            raise BadInputError(f"--max-concurrent {most} needs Ray; cluster.backend = in-process has one process")
        return None, 1
    if experiment.cluster.address != "local":
        return None, most or 2
    needs = needs_of(job)
    planned = plan(experiment.cluster, experiment.clients, session.capacity, needs)
    held = runs_on_share(planned.gpu_bytes, needs, planned.packed)
    if most and most > held:
        raise BadInputError(
            f"--max-concurrent {most}: the share of a GPU that each actor has, {(planned.gpu_bytes or 0) // 2**20} "
            f"MiB, holds {held:g} such run{'s' * (held != 1)} at a time"
        )
    return planned, most or runs_at_once(planned, needs, session.capacity)
