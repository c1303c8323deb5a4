"""The rows of one round: its evaluation, its row of `rounds`, its clients, its events."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from fedray.core.metrics import ALWAYS, METRICS
from fedray.core.scores import Performance
from fedray.core.updates import Event, Report, mean_loss
from fedray.data.dataset import Split
from fedray.experiment.experiment import Evaluation, Experiment
from fedray.results.confusion_counts import confusion_columns
from fedray.results.schema import OWN
from fedray.run.own_metric import OwnMetric
from fedray.server.population import Population
from fedray.server.rounds import Round
from fedray.server.task import Task

MEASURES = ("loss", "accuracy", "top_k_accuracy", *METRICS, "own_metric")
EVALUATED = (
    *(f"{split}_{measure}" for split in ("test", "validation") for measure in MEASURES),
    *("client_loss", "client_accuracy", "client_accuracy_p10", "client_accuracy_std"),
    *("unseen_loss", "unseen_accuracy"),
)
PARTS = ("seconds_train", "seconds_transfer", "seconds_aggregate", "seconds_idle", "seconds_evaluate")
"""The parts of `seconds`. Together with `seconds_record` they add up to it."""


def evaluated(
    done: Round,
    e: Experiment,
    clients: Population,
    own_metric: OwnMetric | None = None,
    unseen: Sequence[int] = (),
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The round's row of `rounds` without its `seconds`, and the columns of `evaluations` and `confusion`.

    The server's model and the clients' models are evaluated in the rounds where they are due: the algorithm's
    `global_model`, and what clients make of it. A server's model of which a part stays at the clients is not evaluated.
    """
    began, evaluation, row = time.perf_counter(), e.evaluation, round_row(done)
    model = e.algorithm.global_model(done.state)

    def due(every: int) -> bool:
        return every > 0 and (done.t % every == 0 or done.t == e.rounds)

    tables: dict[str, dict[str, Any]] = {}
    if due(evaluation.every) and not e.algorithm.personalises:
        splits: tuple[Split, ...] = ("test", "validation") if e.data.validation_examples else ("test",)
        found = {split: clients.evaluate(model, split, evaluation.top_k, evaluation.needs_scores) for split in splits}
        for split, each in found.items():
            row |= {f"{split}_{name}": value for name, value in measures_of(each, evaluation, own_metric).items()}
        tables["confusion"] = confusion_columns(
            {split: each.confusion for split, each in found.items() if each.confusion is not None}
        )
    if due(evaluation.clients_every or 0):
        task = Task(e.algorithm, {**e.algorithm.broadcast(done.state, done.t), **model}, done.t, done.lr)
        counts, losses, accuracies = zip(*clients.evaluate_clients(task), strict=True)
        row |= client_means(losses, accuracies, np.isin(np.arange(len(clients)), np.asarray(unseen, np.int64)))
        tables["evaluations"] = {
            "client": range(len(clients)),
            "test_examples": counts,
            "test_loss": losses,
            "test_accuracy": accuracies,
        }
    if tables:
        row["seconds_evaluate"] = time.perf_counter() - began
    return row, tables


def measures_of(found: Performance, evaluation: Evaluation, own_metric: OwnMetric | None) -> dict[str, float | None]:
    """The measures of a split by their names, null where they are not defined or were not asked for."""
    row: dict[str, float | None] = {name: getattr(found, name) for name in ("loss", "accuracy", "top_k_accuracy")}
    wanted = (*ALWAYS[found.kind], *evaluation.asked)
    row |= {name: found.metric(name) if name in wanted else None for name in METRICS}
    return row | {"own_metric": own_metric.of(found.scores, found.targets, found.loss) if own_metric else None}


def client_means(
    losses: Sequence[float], accuracies: Sequence[float | None], unseen: np.ndarray
) -> dict[str, float | None]:
    """The columns of `rounds` on the clients' own models: of those that may train, and of the `unseen` ones [N]."""
    row: dict[str, float | None] = {"client_loss": np.mean(np.array(losses)[~unseen])}
    if unseen.any():
        row["unseen_loss"] = np.mean(np.array(losses)[unseen])
    if None not in accuracies:
        found = np.array(accuracies, float)
        trained = found[~unseen]
        row["client_accuracy"], row["client_accuracy_std"] = np.mean(trained), np.std(trained)
        row["client_accuracy_p10"] = np.quantile(trained, 0.1)
        if unseen.any():
            row["unseen_accuracy"] = np.mean(found[unseen])
    return row


def own_metrics(row: Mapping[str, Any], own_metric: OwnMetric | None) -> dict[str, float]:
    """The user's own metric in a round's row, by its function's name and the split."""
    splits = ("test", "validation") if own_metric else ()
    found = {split: row[f"{split}_own_metric"] for split in splits}
    return {f"{split}_{own_metric.name}": value for split, value in found.items() if own_metric and value is not None}


ABSENCES = {"dropout": "dropouts", "surplus": "surplus", "lost": "lost", "non_finite": "non_finite"}
"""The columns of `rounds` that count the clients without an update, by their status."""


def round_row(done: Round) -> dict[str, Any]:
    """The row of `rounds` as far as training fills it."""
    reports = done.updates.reports
    everyone = [*reports, *done.absent]
    counts = Counter(report.status for report in done.absent)
    sent = max((report.bytes_down for report in everyone), default=0)  # every client gets the same message
    return {
        "round": done.t,
        "round_lr": done.lr,
        **dict.fromkeys((*EVALUATED, "seconds_evaluate")),
        "train_loss": mean_loss(reports),
        "cohort_size": len(done.cohort),
        "answered": len(reports),
        **{column: counts[status] for status, column in ABSENCES.items()},
        "num_examples": sum(report.num_examples for report in reports),
        "images": sum(report.images for report in reports),
        "padding": sum(report.padding for report in reports),
        "update_norm": norm(done.delta),
        "bytes_down": sent * len(done.cohort),
        "bytes_up": sum(report.bytes_up for report in everyone),
        "retries": done.updates.retries,
        **{f"seconds_{part}": seconds for part, seconds in dataclasses.asdict(done.seconds).items()},
        "cpu_seconds": math.fsum(report.cpu_seconds or 0.0 for report in everyone),
        "finished_at": int(time.time() * 1000),
    }


def client_columns(done: Round) -> dict[str, list[Any]]:
    names = [field.name for field in dataclasses.fields(Report) if field.name in OWN["clients"]]
    reports = sorted([*done.updates.reports, *done.absent], key=attrgetter("client"))
    return {name: [getattr(report, name) for report in reports] for name in names}


def event_rows(events: Sequence[Event]) -> list[dict[str, Any]]:
    names = [field.name for field in dataclasses.fields(Event) if field.name != "clients"]
    return [
        {name: getattr(event, name) for name in names} | {"at_work": ",".join(map(str, event.clients)) or None}
        for event in events
    ]


def metric_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"name": name, "value": float(value)} for name, value in metrics.items()]


def norm(vector: np.ndarray) -> float:
    """The Euclidean norm. NumPy sums it, since BLAS's bits depend on its threads, in pieces that fit the cache."""
    squares, sums = np.empty(2**16), []
    for first in range(0, vector.size, squares.size):
        piece = vector[first : first + squares.size]
        wide = squares[: piece.size]
        wide[...] = piece
        sums.append(np.multiply(wide, wide, out=wide).sum())
    return math.sqrt(math.fsum(sums))
