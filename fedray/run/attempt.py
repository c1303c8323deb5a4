"""One attempt at a run: its rounds played on one population, each recorded, and checkpoints in between."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fedray.core.errors import LostStateError, StorageError, TooFewSurvivorsError
from fedray.core.interrupt import Interrupt
from fedray.core.updates import Event, Report, Vectors
from fedray.results.recorder import Recorder
from fedray.results.schema import Content
from fedray.run.kept_models import fingerprint, save_best, save_final, take_best
from fedray.run.opening import log, timed
from fedray.run.played import Played, followed, played_columns
from fedray.run.prepared import Job
from fedray.run.resume import Past, save
from fedray.run.round_rows import PARTS, client_columns, evaluated, event_rows, metric_rows, own_metrics
from fedray.run.run_columns import partition_columns
from fedray.run.segments import Segment
from fedray.run.stopping import best_round, describe_divergence, outcome
from fedray.run.watch import Watch
from fedray.server.population import Population
from fedray.server.rounds import Round, play_rounds


class Attempt:
    """A run on one population. `play` plays the rounds that are left.

    `events` happened before these rounds. They are recorded with the first one, and the list is emptied.
    """

    def __init__(
        self,
        job: Job,
        clients: Population,
        played: Played,
        recorder: Recorder,
        watch: Watch,
        interrupt: Interrupt,
        events: list[Event],
    ):
        self.job, self.clients, self.played, self.recorder = job, clients, played, recorder
        self.watch, self.interrupt, self.events = watch, interrupt, events
        self.judged = job.judged
        self.before: list[Played] = []  # what trained the rounds before, where that was something else
        self.squeezed: set[int] = set()
        self.state: Vectors = {}
        self.t = self.saved = 0
        self.segments: tuple[Segment, ...] = ()  # the files of the memories in the last checkpoint
        self.began = 0.0

    def play(self, past: Past | None, until: int | None = None) -> str:
        """Play from the past to the end, to round `until` or to an interrupt, and return the run's status."""
        self.start(past)
        try:
            status = self.play_rounds(until)
        except LostStateError:
            raise
        except StorageError as error:
            with suppress(StorageError):  # the disk that just failed will likely fail again
                self.recorder.finish("interrupted", str(error))
            raise
        except (KeyboardInterrupt, TooFewSurvivorsError) as error:
            if self.t > self.saved:
                with suppress(LostStateError):  # the checkpoint before is still there
                    self.save()
            self.add_events()
            short = isinstance(error, TooFewSurvivorsError)
            self.recorder.finish("too_few_survivors" if short else "interrupted", str(error) if short else None)
            raise
        except Exception as error:
            self.add_events()
            self.recorder.finish("failed", error=str(error))
            raise
        if status is None:
            self.recorder.finish("interrupted")
            return "interrupted"
        self.end(status)
        return status

    def start(self, past: Past | None) -> None:
        """Take the state and the clients' memories from the past, and begin the tables."""
        e, clients = self.job.experiment, self.clients
        self.state, self.t = (past.state, past.t) if past else (e.algorithm.init(*self.job.vectors), 0)
        self.saved, self.segments = self.t, past.segments if past else ()
        self.before = followed(past.played, past.t, self.played) if past else []
        for client, memory in past.memories if past else ():
            clients.remember(client, memory)
            del memory  # before the next one is read
        rows = clients.rows()
        actors = len(set(rows["actor"]))
        by = played_columns(self.played, self.before)
        if past and past.shorter:
            self.take_over(past, rows, actors=actors, **by)
            return
        self.recorder.start(rows, partition_columns(self.job), actors=actors, **by)
        if past:
            past.drop_damaged()

    def take_over(self, past: Past, population: Content, **columns: Any) -> None:
        """Make the past of a shorter run this run's own, its checkpoint last: killed before, it does so again."""
        kept = self.recorder.kept
        self.recorder.start(population, partition_columns(self.job), taken_from=past.shorter, **columns)
        take_best(self.job, past.shorter, best_round(self.recorder.rounds, self.judged))
        self.watch.took(self.job, kept)
        self.recorder.sync()
        self.save()

    def play_rounds(self, until: int | None) -> str | None:
        """Play the rounds that are left and record each; the final status, or None where the run is not at its end."""
        e, run, interrupt = self.job.experiment, self.job.run, self.interrupt
        status = self.outcome()
        left = range(self.t + 1, min(e.rounds, until or e.rounds) + 1) if status is None and not interrupt.asked else ()
        interrupt.rounds[run] = self.t + 1
        names = ("rounds", "cohort", "seed", "faults", "sampling", "aggregator")
        settings: dict[str, Any] = {name: getattr(e, name) for name in names} | {"unseen": self.job.unseen.tolist()}
        self.began = time.perf_counter()
        for done in play_rounds(e.algorithm, self.clients, self.state, ts=left, **settings):
            self.record(done)
            self.state, self.t = done.state, done.t
            del done  # and with it the round's vectors
            self.watch.round(self.job, self.recorder.rounds[-1])
            status = self.outcome()
            if status:
                break
            asked, interrupt.rounds[run] = interrupt.asked, self.t + 1
            if self.t % e.output.checkpoint_every == 0 or self.t == until or asked:
                with timed(f"the checkpoint after round {self.t}"):
                    self.recorder.sync()
                    self.save()
                self.saved = self.t
            if asked:
                break
        return status

    def save(self) -> None:
        by = played_columns(self.played, self.before)
        self.segments = save(self.job, self.state, self.t, self.clients, by, self.segments)

    def outcome(self) -> str | None:
        e = self.job.experiment
        return outcome(e.evaluation, self.recorder.rounds, e.rounds, self.judged, e.faults)

    def record(self, done: Round) -> None:
        """Evaluate a round where that is due, record it, and keep the model if it is the best so far."""
        e = self.job.experiment
        row, tables = evaluated(done, e, self.clients, self.job.own_metric, self.job.unseen.tolist())
        row["seconds"] = time.perf_counter() - self.began
        row["seconds_record"] = row["seconds"] - sum(row[part] or 0.0 for part in PARTS)
        self.began = time.perf_counter()
        found = e.algorithm.metrics(done.state, done.mean, done.updates) if done.updates.reports else {}
        metrics = metric_rows({**found, **own_metrics(row, self.job.own_metric)})
        self.events += fewer_at_once(done.updates.reports, self.squeezed, self.watch)
        happened = event_rows([*self.events, *self.clients.events()])
        self.recorder.round(row, client_columns(done), metrics, **tables, events=happened)
        self.events.clear()
        if best_round(self.recorder.rounds, self.judged) == done.t:
            save_best(self.job, done.state, done.t)  # before `t` is this round, which then is not played again
        log_details(row, happened)

    def add_events(self) -> None:
        """Record the events that no round has taken along."""
        self.recorder.add_events(event_rows([*self.events, *self.clients.events()]))

    def end(self, status: str) -> None:
        """The run has come to its final status: keep its model, complete its tables, and tidy up."""
        save_final(self.job, self.state, self.recorder.rounds[-1]["round"])
        if status == "finished" and self.job.experiment.output.keep_checkpoint and self.t > self.saved:
            self.recorder.sync()
            self.save()
        why = describe_divergence(self.recorder.rounds[-1]) if status == "diverged" else None
        self.recorder.finish(status, why, model_fingerprint=fingerprint(self.job, self.state))
        self.job.tidy()


def fewer_at_once(reports: Sequence[Report], known: set[int], watch: Watch) -> list[Event]:
    """An event for each size of chunk, not yet in `known`, that a GPU's memory forced; `known` takes them in."""
    found = {report.squeezed: report for report in reports if report.squeezed not in (0, *known)}
    known |= found.keys()
    events = []
    for at_once, report in sorted(found.items()):
        said = (
            f"the GPU's memory is full: engine = fused trains at most {at_once} of a block's clients at a time from "
            f"now on, so that another run has the same bits only with chunk_size = {at_once}, if at all"
        )
        watch.notice(said)
        events.append(Event("squeezed", said, report.actor, report.node, report.pid))
    return events


def log_details(row: Mapping[str, Any], happened: Sequence[Mapping[str, Any]]) -> None:
    """Log where a round's time went, and what happened to its actors."""
    parts = [name for name in (*PARTS, "seconds_record") if row[name] is not None]
    said = ", ".join(f"{name.removeprefix('seconds_')} {row[name]:.4f}" for name in parts)
    log.debug("round %d took %.4f s: %s", row["round"], row["seconds"], said)
    for event in happened:
        log.debug("%s: %s", event["kind"], event["detail"])
