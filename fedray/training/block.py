"""A block of clients in a process. They are trained, one after another or as one program, and summed, or evaluated."""

from collections.abc import Callable, Iterator, Sequence

from fedray.core.errors import blamed_on
from fedray.core.updates import Scores, Trained, Vectors
from fedray.server.task import Task
from fedray.training.evaluate import evaluate_client
from fedray.training.outgoing import Outgoing, split_memory
from fedray.training.trainer import Trainer
from fedray.training.transfer import Done, Examples


def train_block(
    trainer: Trainer,
    task: Task,
    clients: Sequence[int],
    shard: Callable[[int], Examples],
    memories: Sequence[Vectors],
    summed: bool,
) -> tuple[Trained, list[Vectors]]:
    """Train a block's clients. Returns their updates, summed or each, and their new memories.

    `shard` gives a client's images and labels. An update that is not finite is left out, and its report says so. An
    error of a client's code becomes a ClientError.
    """
    parts = [split_memory(memory) for memory in memories]
    own = [memory for memory, _ in parts]

    def one_by_one() -> Iterator[Done]:
        received = trainer.received(task)
        for client, memory in zip(clients, own, strict=True):
            with blamed_on(f"client {client} failed in round {task.t}"):
                done = trainer.work(received, client, *shard(client), memory)
            yield done

    def together() -> Iterator[Done]:
        named = ", ".join(map(str, clients))
        blamed = f"client {named}" if len(clients) == 1 else f"one of the clients {named}, which train as one program,"
        initial = trainer.network.initial if task.algorithm.remembers else None
        shards, received = map(shard, clients), trainer.received(task)
        with blamed_on(f"{blamed} failed in round {task.t}"):
            yield from trainer.together.train(received, clients, shards, own, initial)

    with trainer.network.arithmetic():
        outgoing = Outgoing(trainer, task, summed)
        for done, (_, memory) in zip(
            together() if trainer.recipe.engine == "fused" else one_by_one(), parts, strict=True
        ):
            outgoing.add(done, memory)
        return outgoing.result()


def evaluate_block(
    trainer: Trainer,
    task: Task,
    clients: Sequence[int],
    shard: Callable[[int], Examples],
    test: Callable[[int], Examples],
    memories: Sequence[Vectors],
) -> list[Scores]:
    """Evaluate clients, each on the images and labels that `test` gives."""
    results, received = [], trainer.received(task)
    with trainer.network.arithmetic():
        for client, memory in zip(clients, memories, strict=True):
            with blamed_on(f"client {client} failed in its evaluation after round {task.t}"):
                own, _ = split_memory(memory)
                results.append(evaluate_client(trainer, received, client, shard(client), test(client), own))
    return results
