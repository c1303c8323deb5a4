"""One experiment, start to finish: data -> population -> rounds -> results."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedray import results
from fedray.core.errors import (
    START_OVER,
    BadInputError,
    BusyError,
    DamagedError,
    LostStateError,
    StorageError,
)
from fedray.core.interrupt import Interrupt, interrupted_by_the_kernel
from fedray.core.notebook import in_kernel
from fedray.core.updates import Event
from fedray.data.items import progress_to
from fedray.experiment.experiment import Experiment
from fedray.results.files import read_row
from fedray.results.frames import Results
from fedray.results.recorder import Recorder
from fedray.run import longer
from fedray.run.attempt import Attempt
from fedray.run.checks import check_shards, check_split
from fedray.run.disk import check_disk, parts_of
from fedray.run.edited import edited_since
from fedray.run.fresh import begun, move_aside, next_folder
from fedray.run.opening import (
    check_session,
    open_past,
    population,
    shared_session,
    tell_of_start,
    timed,
    warn_of_arithmetic,
    warn_of_gpus,
)
from fedray.run.played import check_ended
from fedray.run.prepared import Job
from fedray.run.resume import Past, read_past, source_change
from fedray.run.session import KeptRay
from fedray.run.trackers import logged
from fedray.run.watch import LoggedWatch, Watch

if TYPE_CHECKING:
    from fedray.cluster.start import Session


def run(
    experiment: Experiment,
    watch: Watch | None = None,
    session: "Session | KeptRay | None" = None,
    until: int | None = None,
    fresh: bool = False,
    interrupt: Interrupt | None = None,
) -> Results:
    """Run an experiment, or what is left of it, and return the tables of this run alone.

    A finished run is not repeated. Without a `session`, given or open, a Ray of its own is started and shut down. After
    round `until`, or the one in which `interrupt` was asked for, it is left as interrupted, to be continued. With
    `fresh` it starts over, and what there is of it is moved aside, into a results folder NAME.old-1. In a notebook the
    first interrupt of the cell ends the run after the round in play, as KeyboardInterrupt, and a second one at once.
    Raises BadInputError before anything is on disk, ClientError when the clients' code fails, StorageError when the
    results cannot be written any more.
    """
    watch = watch or LoggedWatch()
    if interrupt is None and in_kernel():
        with interrupted_by_the_kernel(watch.notice) as interrupt:
            job, status = play_run(experiment, watch, session, until, fresh, interrupt)
        if interrupt.asked and status == "interrupted":
            raise KeyboardInterrupt
    else:
        job, _ = play_run(experiment, watch, session, until, fresh, interrupt)
    return results.load(job.experiment.output.name, job.experiment.output.root, job.run)


def play_run(
    experiment: Experiment,
    watch: Watch,
    session: "Session | KeptRay | None" = None,
    until: int | None = None,
    fresh: bool = False,
    interrupt: Interrupt | None = None,
) -> tuple[Job, str]:
    """What `run` does, without reading the tables: the prepared run, and its status afterwards."""
    interrupt = interrupt or Interrupt()
    with progress_to(watch.notice):
        job = Job(experiment)
    output = job.experiment.output
    fresh = fresh or bool(begun(job.folder, job.run))
    before = None if fresh else status_before(job)
    if fresh:
        next_folder(job.folder)
    elif before in results.FINAL_STATUSES:
        check_ended(job)
        return repeat(job, watch)
    results.check_version(output.root, output.name)
    check_session(job.experiment.cluster, session, output.client_output)
    job.fork_server()  # it imports torch while the data are read and Ray starts
    with timed("reading the data and dealing them out"):
        check_split(job)
    job.ask_for_blueprint()
    watch.prepare(job)
    if not (fresh or before) and (edited := edited_since(job)):
        watch.edited(job, *edited)
    shared = shared_session(job.experiment.cluster, session, output.client_output)
    with logged(job, watch) as watch, shared as connection, saying_how_to_go_on(job, fresh):
        with timed("waiting for the model"):
            check_shards(job)
        for sentence in check_disk(parts_of(job, fresh)):
            watch.notice(f"the disk may become full: {sentence}")
        past, recorder, why = open_past(job, fresh)
        with recorder.locked(), interrupt.expecting(job.run):
            if not fresh and job.ended:
                raise BusyError(f"run {job.run} in {job.folder} was finished by another process in the meantime")
            if why:
                watch.from_round_1(job, why)
            status = play(job, connection, past, recorder, watch, interrupt, fresh, until, before)
        watch.end(job, status, repeated=False)
    tell_of_best(job, watch)
    return job, status


def play(
    job: Job,
    session: "Session | None",
    past: Past | None,
    recorder: Recorder,
    watch: Watch,
    interrupt: Interrupt,
    fresh: bool,
    until: int | None,
    before: str | None,
) -> str:
    """Play the run, which had the status `before`, and return the one that it has now.

    Where a node takes clients' memories with it, go back to the checkpoint.
    """
    carried: list[Event] = []
    for attempt in range(MOST_ATTEMPTS):
        with population(job, session, watch.notice, again=attempt > 0) as (clients, where, played):
            if attempt == 0:
                if fresh and (old := move_aside(job.folder, job.run)):
                    watch.notice(f"what there was of run {job.run} is in {old}/ now")
                watch.begin(job, where)
                tell_of_start(job, watch)
                warn_of_arithmetic(job, played, watch)
                warn_of_gpus(job, clients, played.device, watch)
            if past:
                said = past.notice_by(played)
                watch.notice(said)
                if attempt == 0:
                    carried.append(Event("resumed", said))
            elif before:
                watch.notice(f"run {job.run} was {before} before its first checkpoint, and starts over")
            try:
                return Attempt(job, clients, played, recorder, watch, interrupt, carried).play(past, until)
            except LostStateError as error:
                if attempt == MOST_ATTEMPTS - 1:
                    recorder.finish("failed", error=str(error))
                    raise
                carried += [*clients.events(), Event("went_back", str(error))]
                watch.notice(f"what clients remember was lost with a node ({error})")
            finally:
                interrupt.left(job.run)
        past, recorder, _ = open_past(job)
    raise AssertionError("the last attempt returns or raises")


def repeat(job: Job, watch: Watch) -> tuple[Job, str]:
    """Show a run that came to its end before, tidy up after it, and return it with its status."""
    output = job.experiment.output
    job.tidy()
    (row,) = read_row(job.folder / "runs" / f"{job.run}.parquet").to_pylist()
    watch.end(job, row["status"], repeated=True)
    for change in source_change(row["fedray_source"]):
        watch.notice(f"it was played before an edit ({change}); --fresh plays it again")
    if output.save_model and not job.model.exists():
        watch.notice("its model was not kept; --fresh runs it again")
    if output.keep_checkpoint and row["status"] == "finished" and not job.checkpoint.exists():
        watch.notice("its checkpoint was not kept; --fresh runs it again")
    tell_of_best(job, watch)
    return job, str(row["status"])


def tell_of_best(job: Job, watch: Watch) -> None:
    """Tell where the model of the best round of a run that has been played is missing."""
    output = job.experiment.output
    if not output.save_best or job.best_model.exists():
        return
    rounds = results.load(output.name, output.root, job.run, tables=("rounds",)).rounds
    if rounds[job.judged].notna().any():
        watch.notice("the model of its best round was not kept; --fresh runs it again")


def status_before(job: Job) -> str | None:
    """The run's status so far. DamagedError, with the way out, where its row cannot be read."""
    try:
        return job.status
    except DamagedError as error:
        raise DamagedError(f"{error}; {START_OVER}") from None


MOST_ATTEMPTS = 5  # at a run that loses its clients' memories each time


@contextmanager
def saying_how_to_go_on(job: Job, fresh: bool) -> Iterator[None]:
    """Add to a StorageError what of the run is kept and how it goes on."""
    try:
        yield
    except StorageError as error:
        command = "the same command without --fresh" if fresh else "the same command"
        try:
            past = read_past(job) or longer.find(job).past
        except BadInputError:
            past = None
        kept = f"what was reported is kept, and {command} goes on from round {past.t + 1 if past else 1}"
        raise StorageError(f"{error}; {kept}") from error
