"""A block of clients in a process: trained, one after another or as one program, and summed; or evaluated."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from fedray.errors import blamed_on
from fedray.trainer import Trainer
from fedray.transfer import Done, Examples, SumThere
from fedray.updates import Scores, Sum, Trained, Vectors, finite


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
    """Train a block's clients: their updates, summed or each, and their new memories.

    `shard` gives a client's images and labels. An update that is not finite is left out, as its report says. Whatever a
    client's code raises comes out as a ClientError.
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
        initial = trainer.initial if algorithm.remembers else None
        shards, received = map(shard, clients), trainer.received(message)
        with blamed_on(f"{blamed} failed in round {t}"):
            yield from trainer.together.train(algorithm, clients, shards, received, memories, initial, t, lr)

    with trainer.arithmetic():
        rounds = together() if trainer.recipe.engine == "fused" else one_by_one()
        if trainer.apart and summed:
            return sum_there(algorithm, rounds, t)
        return collect(trainer, algorithm, rounds, t, summed)


def sum_there(algorithm: Any, rounds: Iterable[Done], t: int) -> tuple[Trained, list[Vectors]]:
    """The sum of the clients' updates, made on the device."""
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
    """The clients' updates on the host, or the sum of them, made there."""
    total, each, reports, remembered = Sum(), [], [], []
    for done in rounds:
        # On the host it is there already, and reading it cannot fail.
        with blamed_on(f"client {done.report.client} failed in round {t}") if trainer.apart else nullcontext():
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
    """Evaluate clients, each on images and labels that `test` gives."""
    results, received = [], trainer.received(message)
    with trainer.arithmetic():
        for client, memory in zip(clients, memories, strict=True):
            with blamed_on(f"client {client} failed in its evaluation after round {t}"):
                results.append(
                    trainer.evaluate_client(algorithm, client, shard(client), test(client), received, memory, t, lr)
                )
    return results
