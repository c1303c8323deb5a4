"""A block of clients in a process. They are trained, one after another or as one program, and summed, or evaluated."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from fedray.core.errors import blamed_on
from fedray.core.updates import Scores, Sum, Trained, Vectors, finite
from fedray.training.evaluate import evaluate_client
from fedray.training.trainer import Trainer
from fedray.training.transfer import Done, Examples, SumThere


def train_block(
    trainer: Trainer,
    algorithm: Any,
    clients: Sequence[int],
    shard: Callable[[int], Examples],
    message: Vectors,
    memories: Sequence[Vectors],
    t: int,
    lr: float,
    summed: bool,
) -> tuple[Trained, list[Vectors]]:
    """Train a block's clients. Returns their updates, summed or each, and their new memories.

    `shard` gives a client's images and labels. An update that is not finite is left out, and its report says so. An
    error of a client's code becomes a ClientError.
    """

    def one_by_one() -> Iterator[Done]:
        received = trainer.received(message)
        for client, memory in zip(clients, memories, strict=True):
            with blamed_on(f"client {client} failed in round {t}"):
                done = trainer.work(algorithm, client, *shard(client), received, memory, t, lr)
            yield done

    def together() -> Iterator[Done]:
        named = ", ".join(map(str, clients))
        blamed = f"client {named}" if len(clients) == 1 else f"one of the clients {named}, which train as one program,"
        initial = trainer.network.initial if algorithm.remembers else None
        shards, received = map(shard, clients), trainer.received(message)
        with blamed_on(f"{blamed} failed in round {t}"):
            yield from trainer.together.train(algorithm, clients, shards, received, memories, initial, t, lr)

    with trainer.network.arithmetic():
        rounds = together() if trainer.recipe.engine == "fused" else one_by_one()
        if trainer.on_device and summed:
            return sum_there(algorithm, rounds, t)
        return collect(trainer, algorithm, rounds, t, summed)


def sum_there(algorithm: Any, rounds: Iterable[Done], t: int) -> tuple[Trained, list[Vectors]]:
    """Sum the clients' updates on the device."""
    there, remembered = SumThere(), []
    for done in rounds:
        with blamed_on(f"client {done.report.client} failed in round {t}"):
            there.add(done, algorithm.weight(done.report.num_examples))
        remembered.append(done.memory)
    total, reports = there.read()
    return Trained(reports, sum=total), remembered


def collect(
    trainer: Trainer, algorithm: Any, rounds: Iterable[Done], t: int, summed: bool
) -> tuple[Trained, list[Vectors]]:
    """Collect the clients' updates on the host: their sum, or each."""
    total, each, reports, remembered = Sum(), [], [], []
    for done in rounds:
        # Only a device computes after the call, so that only there reading can fail.
        with blamed_on(f"client {done.report.client} failed in round {t}") if trainer.on_device else nullcontext():
            vectors, memory, report = trainer.read(done)
        if not (finite(vectors) and report.train_loss is not None and math.isfinite(report.train_loss)):
            report = replace(report, status="non_finite")
        reports.append(report)
        remembered.append(memory)
        if report.status != "ok":
            continue
        if summed:
            with blamed_on(f"client {report.client} failed in round {t}"):
                total.add_update(vectors, algorithm.weight(report.num_examples))
        else:
            each.append(vectors)
    return Trained(reports, sum=total if summed else None, each=each), remembered


def evaluate_block(
    trainer: Trainer,
    algorithm: Any,
    clients: Sequence[int],
    shard: Callable[[int], Examples],
    test: Callable[[int], Examples],
    message: Vectors,
    memories: Sequence[Vectors],
    t: int,
    lr: float,
) -> list[Scores]:
    """Evaluate clients, each on the images and labels that `test` gives."""
    results, received = [], trainer.received(message)
    with trainer.network.arithmetic():
        for client, memory in zip(clients, memories, strict=True):
            with blamed_on(f"client {client} failed in its evaluation after round {t}"):
                results.append(
                    evaluate_client(trainer, algorithm, client, shard(client), test(client), received, memory, t, lr)
                )
    return results
