"""One experiment, start to finish: data -> population -> rounds -> results. The only file that knows everyone."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from fedray import results
from fedray.core.errors import (
    START_OVER,
    BadInputError,
    BusyError,
    DamagedError,
    LostStateError,
    StorageError,
    TooFewSurvivorsError,
)
from fedray.core.interrupt import Interrupt
from fedray.core.updates import Event, Report, Vectors
from fedray.experiment.experiment import Experiment
from fedray.results.frames import Results
from fedray.results.recorder import Recorder
from fedray.run.fresh import begun, move_aside, next_folder
from fedray.run.kept_models import fingerprint, save_best, save_final
from fedray.run.opening import log, open_past, population, shared_session, timed, warn_of_arithmetic, warn_of_gpus
from fedray.run.prepared import Job
from fedray.run.resume import Past, read_past, save
from fedray.run.round_rows import PARTS, client_columns, evaluated, event_rows, metric_rows
from fedray.run.stopping import best_round, describe_divergence, judged_by, outcome
from fedray.run.trackers import logged
from fedray.run.watch import Watch
from fedray.server.population import Population
from fedray.server.rounds import play_rounds

if TYPE_CHECKING:
    from fedray.cluster.start import Session


def run(
    experiment: Experiment,
    watch: Watch | None = None,
    session: "Session | None" = None,
    until: int | None = None,
    fresh: bool = False,
    interrupt: Interrupt | None = None,
) -> Results:
    """Run an experiment, or what is left of it, and return the tables of this run alone.

    A finished run is not repeated. Without a `session` a Ray of its own is started and shut down. After round `until`,
    or the one in which `interrupt` was asked for, it is left as interrupted, to be continued. With `fresh` it starts
    over, and what there is of it is moved aside, into a results folder NAME.old-1.
    Raises BadInputError before anything is on disk, ClientError when the clients' code fails, StorageError when the
    results cannot be written any more.
    """
    job, watch, interrupt = Job(experiment), watch or Watch(), interrupt or Interrupt()
    output = job.experiment.output
    fresh = fresh or bool(begun(job.folder, job.run))
    if fresh:
        next_folder(job.folder)
    elif has_ended(job):
        job.tidy()
        watch.end(job, str(job.status), repeated=True)
        if output.save_model and not job.model.exists():
            watch.notice("its model was not kept; --fresh runs it again")
        return load_ended(job, watch)
    results.check_version(output.root, output.name)
    job.fork_server  # noqa: B018  it imports torch while the data are read and Ray starts
    with timed("reading the data and dealing them out"):
        job.check_split()
    job.blueprint_asked  # noqa: B018
    watch.prepare(job)
    shared = nullcontext(session) if session else shared_session(job.experiment.cluster)
    with logged(job, watch) as watch, shared as session, saying_how_to_go_on(job, fresh):
        with timed("waiting for the model"):
            job.check_shards()
        past, recorder = open_past(job, fresh)
        with recorder.locked(), interrupt.expecting(job.run):
            if not fresh and job.ended:
                raise BusyError(f"run {job.run} in {job.folder} was finished by another process in the meantime")
            carried, before = [Event("resumed", past.notice)] if past else [], None if fresh else job.status
            for attempt in range(MOST_ATTEMPTS):
                with population(job, session, watch.notice, again=attempt > 0) as (clients, where, device):
                    if attempt == 0:
                        if fresh and (old := move_aside(job.folder, job.run)):
                            watch.notice(f"what there was of run {job.run} is in {old}/ now")
                        watch.begin(job, where)
                        warn_of_arithmetic(job, device, watch)
                        warn_of_gpus(job, clients, device, watch)
                    if past:
                        watch.notice(past.notice + past.on_another(device))
                    elif before:
                        watch.notice(f"run {job.run} was {before} before its first checkpoint, and starts over")
                    try:
                        status = play(job, clients, device, recorder, past, watch, interrupt, carried, until)
                        break
                    except LostStateError as error:
                        if attempt == MOST_ATTEMPTS - 1:
                            recorder.finish("failed", error=str(error))
                            raise
                        carried += [*clients.events(), Event("went_back", str(error))]
                        watch.notice(f"what clients remember was lost with a node ({error})")
                    finally:
                        interrupt.left(job.run)
                past, recorder = open_past(job)
        watch.end(job, status, repeated=False)
    return load_ended(job, watch)


def load_ended(job: Job, watch: Watch) -> Results:
    """The tables of a run that has been played; where its best model should be there and is not, that is said."""
    output = job.experiment.output
    tables = results.load(output.name, output.root, job.run)
    if output.save_best and not job.best_model.exists() and tables.rounds[judged_by(job.experiment)].notna().any():
        watch.notice("the model of its best round was not kept; --fresh runs it again")
    return tables


def has_ended(job: Job) -> bool:
    """Whether the run came to its end before; DamagedError, with the way out, where that cannot be read."""
    try:
        return job.ended
    except DamagedError as error:
        raise DamagedError(f"{error}; {START_OVER}") from None


MOST_ATTEMPTS = 5  # at a run whose clients' memories are lost again and again


@contextmanager
def saying_how_to_go_on(job: Job, fresh: bool) -> Iterator[None]:
    """Where the results cannot be written any more, say what becomes of the run."""
    try:
        yield
    except StorageError as error:
        command = "the same command without --fresh" if fresh else "the same command"
        try:
            past = read_past(job)
        except BadInputError:
            past = None
        kept = f"what was reported is kept, and {command} goes on from round {past.t + 1 if past else 1}"
        raise StorageError(f"{error}; {kept}") from error


def play(
    job: Job,
    clients: Population,
    device: str,
    recorder: Recorder,
    past: Past | None,
    watch: Watch,
    interrupt: Interrupt,
    events: list[Event],
    until: int | None = None,
) -> str:
    """Play the rounds that are left, or those up to `until` or an interrupt, record each, and return the run's status.

    `events` have happened before these; they are recorded with the first, and the list is emptied.
    """
    e, output = job.experiment, job.experiment.output
    state, t = (past.state, past.t) if past else (e.algorithm.init(*job.vectors), 0)
    for client, memory in past.memories if past else ():
        clients.remember(client, memory)
        del memory  # before the next one is read
    rows = clients.rows()
    recorder.start(rows, job.partition_columns(), actors=len(set(rows["actor"])), device=device)
    if past:
        past.drop_damaged()
    saved, squeezed = t, set[int]()
    judged = judged_by(e)
    try:
        status = outcome(e.evaluation, recorder.rounds, e.rounds, judged, e.faults)
        left = range(t + 1, min(e.rounds, until or e.rounds) + 1) if status is None and not interrupt.asked else ()
        interrupt.rounds[job.run] = t + 1
        names = ("rounds", "cohort", "seed", "faults", "sampling")
        settings: dict[str, Any] = {name: getattr(e, name) for name in names}
        began = time.perf_counter()
        for done in play_rounds(e.algorithm, clients, state, ts=left, **settings):
            row, tables = evaluated(done, e, clients)
            row["seconds"] = time.perf_counter() - began
            row["seconds_record"] = row["seconds"] - sum(row[part] or 0.0 for part in PARTS)
            began = time.perf_counter()
            metrics = metric_rows(e.algorithm.metrics(done.state, done.updates) if done.updates.reports else {})
            events += fewer_at_once(done.updates.reports, squeezed, watch.notice)
            happened = event_rows([*events, *clients.events()])
            recorder.round(row, client_columns(done), metrics, **tables, events=happened)
            events.clear()
            if best_round(recorder.rounds, judged) == done.t:
                save_best(job, done.state, done.t)  # before `t` is this round, which then is not played again
            say_details(row, happened)
            state, t = done.state, done.t
            del done  # and with it the round's vectors
            watch.round(job, recorder.rounds[-1])
            status = outcome(e.evaluation, recorder.rounds, e.rounds, judged, e.faults)
            if status:
                break
            asked, interrupt.rounds[job.run] = interrupt.asked, t + 1
            if t % output.checkpoint_every == 0 or t == until or asked:
                with timed(f"the checkpoint after round {t}"):
                    recorder.sync()
                    save(job, state, t, clients, device)
                saved = t
            if asked:
                break
    except LostStateError:
        raise
    except StorageError as error:
        with suppress(StorageError):  # which are as likely not to be written either
            recorder.finish("interrupted", str(error))
        raise
    except (KeyboardInterrupt, TooFewSurvivorsError) as error:
        if t > saved:
            with suppress(LostStateError):  # there is the checkpoint before
                save(job, state, t, clients, device)
        recorder.add_events(event_rows([*events, *clients.events()]))
        short = isinstance(error, TooFewSurvivorsError)
        recorder.finish("too_few_survivors" if short else "interrupted", str(error) if short else None)
        raise
    except Exception as error:
        recorder.add_events(event_rows([*events, *clients.events()]))
        recorder.finish("failed", error=str(error))
        raise
    if status is None:
        recorder.finish("interrupted")
        return "interrupted"
    end(job, recorder, state, status)
    return status


def fewer_at_once(reports: Sequence[Report], known: set[int], notice: Callable[[str], None]) -> list[Event]:
    """Whether a GPU had no room for as many clients at once as the settings say, since `known`: an event for each."""
    found = {report.squeezed: report for report in reports if report.squeezed not in (0, *known)}
    known |= found.keys()
    events = []
    for at_once, report in sorted(found.items()):
        said = (
            f"the GPU's memory is full: engine = fused trains at most {at_once} of a block's clients at a time from "
            f"now on, so that another run has the same bits only with chunk_size = {at_once}, if at all"
        )
        notice(said)
        events.append(Event("squeezed", said, report.actor, report.node, report.pid))
    return events


def end(job: Job, recorder: Recorder, state: Vectors, status: str) -> None:
    """The run has come to its final status: keep its model, complete its tables, and tidy up."""
    save_final(job, state, recorder.rounds[-1]["round"])
    why = describe_divergence(recorder.rounds[-1]) if status == "diverged" else None
    recorder.finish(status, why, model_fingerprint=fingerprint(state))
    job.tidy()


def say_details(row: Mapping[str, Any], happened: Sequence[Mapping[str, Any]]) -> None:
    """Say where a round's time went, and what befell its actors."""
    parts = [name for name in (*PARTS, "seconds_record") if row[name] is not None]
    said = ", ".join(f"{name.removeprefix('seconds_')} {row[name]:.4f}" for name in parts)
    log.debug("round %d took %.4f s: %s", row["round"], row["seconds"], said)
    for event in happened:
        log.debug("%s: %s", event["kind"], event["detail"])
