"""Checks of an experiment against its data and its model, made before anything is on disk."""

from functools import lru_cache
from typing import Any

from fedray.algorithms import local_optimizer
from fedray.algorithms.local_optimizer import LocalOptimizer
from fedray.cluster.forks import ForkServer
from fedray.core.errors import BadInputError


@lru_cache
def try_optimizer(server: ForkServer | None, wanted: LocalOptimizer, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Have an optimizer tried where torch is, once for all runs of a sweep; BadInputError where it fails."""
    if server is None:
        local_optimizer.check(wanted, shapes)
    else:
        server.ask(local_optimizer.check, wanted, shapes).result()


def check_batches(algorithm: Any, sizes: list[int], normalises: bool) -> None:
    """Refuse a batch size that leaves some client without a step, or BatchNorm with a batch of one image."""
    for client, n in enumerate(sizes):
        size = algorithm.batch_size or n
        if algorithm.drop_last and n < size:
            raise BadInputError(
                f"client {client} has {n} examples, fewer than algorithm.batch_size = {size}, and "
                "algorithm.drop_last = true leaves it nothing to train on"
            )
        if normalises and (size == 1 or (n % size == 1 and not algorithm.drop_last)):
            raise BadInputError(
                f"client {client} has {n} examples, so that with algorithm.batch_size = {size} a batch of one image is "
                "left, on which BatchNorm fails; set algorithm.drop_last = true or another batch size"
            )
