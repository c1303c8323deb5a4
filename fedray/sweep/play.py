"""The play of a sweep: all runs are checked, then several at a time are played to each rung and to their ends."""

import math
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedray import results
from fedray.cluster.gpus import runs_on_share
from fedray.cluster.plan import Plan, runs_at_once
from fedray.core.errors import BadInputError, BusyError, RunError, StorageError
from fedray.core.interrupt import Interrupt
from fedray.models.blueprint import Blueprint
from fedray.results.recorder import keep_file, lock_of, mark
from fedray.run.checks import check_shards
from fedray.run.disk import check_disk, parts_of, parts_of_all
from fedray.run.fresh import begun, move_aside, next_folder
from fedray.run.needs import needs_of
from fedray.run.opening import open_past, reserved, shared_session
from fedray.run.prepared import Job
from fedray.run.run_columns import grouping_columns, run_row
from fedray.run.simulation import play_run
from fedray.run.stopping import recorded_judge
from fedray.sweep.halving import configuration, score, worse_half
from fedray.sweep.longer import waves
from fedray.sweep.on_failure import OnFailure
from fedray.sweep.threads import play_all
from fedray.sweep.view import SweepView

if TYPE_CHECKING:
    from fedray.cluster.start import Session

Plans = dict[str, tuple[Plan | None, int]]
"""For each run its reservations, and how many such runs may be in flight."""


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, each once, in order, with their labels, and the options that it was started with."""

    file: Path
    jobs: tuple[Job, ...]
    labels: Mapping[str, str]
    axes: tuple[str, ...]
    rungs: tuple[int, ...]
    retry_failed: bool
    fresh: bool
    """Whether all runs start over. It is false again once their earlier files were moved aside."""
    damaged: tuple[str, ...]
    """A sentence for each run that is left out because its records cannot be read."""
    on_failure: OnFailure | None = None
    """What is called for each run that fails."""

    @property
    def left(self) -> list[Job]:
        """The runs to play: all with `fresh`, otherwise those that have not ended; failed ones with `retry_failed`."""
        if self.fresh:
            return list(self.jobs)
        return [job for job in self.jobs if job.status not in done(self.retry_failed)]


def done(retry_failed: bool) -> tuple[str, ...]:
    """The statuses of runs that are not played again."""
    return results.FINAL_STATUSES if retry_failed else (*results.FINAL_STATUSES, *results.FAILED_STATUSES)


def play_sweep(sweep: Sweep, most: int | None, watch: SweepView, interrupt: Interrupt) -> None:
    """Play the runs that are left to each rung, stop the worse half there, and play the others to their ends.

    Raises KeyboardInterrupt after the rounds in play if an interrupt was asked for, StorageError if nothing can be
    written any more.
    """
    session, plans = None, Plans()
    out: set[str] = set()  # runs that were halved
    failed: set[str] = set()  # runs that failed in this sweep, which tries none twice
    with ExitStack() as stack:
        for rung in (*sweep.rungs, None):
            there = recorded(sweep) if rung and not sweep.fresh else {}
            alive = [
                job for job in sweep.left if job.run not in out | failed and there.get(job.run, 0) < (rung or math.inf)
            ]
            if alive and not plans:
                e = sweep.jobs[0].experiment
                session = stack.enter_context(shared_session(e.cluster, client_output=e.output.client_output))
                plans = check_all(sweep.left, session, most, sweep.fresh, watch)
                if sweep.fresh:
                    move_all_aside(sweep.jobs, watch)
                    sweep = replace(sweep, fresh=False)
                keep_file(sweep.file, sweep.jobs[0].folder)
            for jobs, at_once in [group for wave in waves(alive) for group in together(wave, plans)]:
                play_together(sweep, jobs, at_once, watch, session, rung, interrupt)
                if interrupt.asked:
                    raise KeyboardInterrupt
            failed |= {job.run for job in alive if job.status in results.FAILED_STATUSES}
            if rung:
                out |= halve(rung, [job for job in sweep.jobs if job.run not in out], watch)


def move_all_aside(jobs: Sequence[Job], watch: SweepView) -> None:
    """Move the files of these runs aside, all into one folder. A run that another process is playing stays."""
    folder = jobs[0].folder
    into = next((old for job in jobs if (old := begun(folder, job.run))), None)
    for job in jobs:
        with suppress(BusyError), lock_of(folder, job.run):
            into = move_aside(folder, job.run, into) or into
    if into:
        watch.notice(f"the earlier files of these runs are now in {into}/")


def play_together(
    sweep: Sweep,
    jobs: Sequence[Job],
    most: int,
    watch: SweepView,
    session: "Session | None",
    until: int | None,
    interrupt: Interrupt,
) -> None:
    stop = session.pool.dispatcher.stop if session else lambda: None
    try:
        play_all(jobs, lambda job: play(sweep, job, watch, session, until, interrupt), min(most, len(jobs)), stop)
    finally:
        if session:
            session.pool.dispatcher.stopping = False  # all threads have ended, and a session goes on


def recorded(sweep: Sweep) -> dict[str, int]:
    """The last recorded round of each run."""
    folder = sweep.jobs[0].folder
    rounds = results.load(folder.name, folder.parent, tables=("rounds",)).rounds
    return {str(run): int(t) for run, t in rounds.groupby("run")["round"].max().items()}


def together(jobs: Sequence[Job], plans: Plans) -> list[tuple[list[Job], int]]:
    """The runs grouped by their reservations, in order, each group with how many of its runs may be in flight."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        planned, _ = plans[job.run]
        groups.setdefault(planned and (planned.num_cpus, planned.num_gpus), []).append(job)
    return [(group, min(plans[job.run][1] for job in group)) for group in groups.values()]


def play(
    sweep: Sweep, job: Job, watch: SweepView, session: "Session | None", until: int | None, interrupt: Interrupt
) -> None:
    """Play one run. An error is shown and recorded as the run's status, and the sweep goes on.

    StorageError, nothing can be written any more, ends the sweep.
    """
    if interrupt.asked:
        return
    try:
        play_run(job.asked, watch, session, until, interrupt=interrupt)
    except BusyError as error:
        watch.fail(job, str(error), "left to another process")
    except StorageError:
        raise
    except Exception as error:
        said = isinstance(error, BadInputError | RunError)
        why = str(error) if said else traceback.format_exc()
        if job.status in (None, "running", "killed", "interrupted", "halved"):  # it failed before its rounds
            record_failure(job, why)
        watch.fail(job, why)
        if sweep.on_failure:
            sweep.on_failure.call(job, sweep.labels[job.run], why, watch)


def record_failure(job: Job, why: str) -> None:
    """Mark the run as failed in its tables."""
    e, ready = job.experiment, Job(job.asked)
    try:
        known = {**grouping_columns(ready), **run_row(ready)}
    except Exception:  # perhaps its data or its model failed
        names = {"algorithm": e.chosen_name("algorithm"), "model": e.model.name, "dataset": e.data.dataset}
        known = {**names, "clients": e.clients, "cohort": e.cohort, "seed": e.seed, "settings": job.settings_json}
    mark(e.output.root, e.output.name, job.run, "failed", why, known)


def halve(rung: int, jobs: Sequence[Job], watch: SweepView) -> set[str]:
    """Stop the worse half of the configurations at this rung and return their runs. They keep their recorded rounds."""
    folder = jobs[0].folder
    found = results.load(folder.name, folder.parent, tables=("rounds",))
    rounds, judges = found.rounds, dict(zip(found.runs["run"], found.runs["judged_by"], strict=True))
    by_run = {
        str(run): rows.astype(object).where(rows.notna(), None).to_dict("records")
        for run, rows in rounds.groupby("run")
    }
    members: dict[str, list[Job]] = {}
    scores: dict[str, list[float]] = {}
    for job in jobs:
        key, lost = configuration(job.experiment), job.status in (*results.FAILED_STATUSES, "diverged")
        members.setdefault(key, []).append(job)
        judged = recorded_judge(judges.get(job.run), job.experiment)
        scores.setdefault(key, []).append(-math.inf if lost else score(judged, by_run.get(job.run, []), rung))
    losers = worse_half(scores)
    stopped = [job for key in losers for job in members[key]]
    for job in stopped:
        if job.status in ("interrupted", "halved"):
            why = f"--halve stopped it after round {rung}, being in the worse half of {len(scores)} configurations"
            mark(folder.parent, folder.name, job.run, "halved", why, {})
    watch.halve(rung, len(scores) - len(losers), stopped)
    return {job.run for job in stopped}


def check_all(jobs: Sequence[Job], session: "Session | None", most: int | None, fresh: bool, watch: SweepView) -> Plans:
    """Call `check` for each run, and check the disk for all. Runs with the same model share one build of it."""
    blueprints: dict[Any, Blueprint] = {}
    found: Plans = {}
    on_disk = []
    for job in jobs:
        own = Job(job.asked)  # a second one, so that the model and the shards are freed after the check
        key = (own.recipe.model, own.recipe.shape, own.recipe.classes, own.recipe.kind)
        if key in blueprints:
            own.blueprint = blueprints[key]
        found[job.run] = check(own, session, most, fresh)
        blueprints[key] = own.blueprint
        on_disk.append(parts_of(own, fresh, min(len(jobs), found[job.run][1])))
    for sentence in check_disk(parts_of_all(on_disk)):
        watch.notice(f"the disk may become full: {sentence}")
    return found


def check(job: Job, session: "Session | None", most: int | None, fresh: bool) -> tuple[Plan | None, int]:
    """Make the checks of a run that need its data; BadInputError if one fails. Nothing has been written to disk yet.

    Returns how many such runs may be in flight and, on a local Ray, the run's reservations. They are None on a cluster,
    where other jobs may change the room, and without Ray.
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
    played, planned = reserved(job, session, experiment.cluster)
    needs = needs_of(job, played)
    held = runs_on_share(planned.gpu_bytes, needs, planned.packed)
    if most and most > held:
        raise BadInputError(
            f"--max-concurrent {most}: the share of a GPU that each actor has, {(planned.gpu_bytes or 0) // 2**20} "
            f"MiB, holds {held:g} such run{'s' * (held != 1)} at a time"
        )
    return planned, most or runs_at_once(planned, needs, session.capacity)
