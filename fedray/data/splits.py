"""Splits of the clients' own examples and of the clients: what is held out of training, to evaluate on."""

from collections.abc import Sequence

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.randomness import generator


def hold_out(shards: Sequence[np.ndarray], share: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each client's rows that it trains on, and those that are held out, both sorted; a pure function.

    Of a client's n distinct rows the nearest whole number to `share` times n is held out, but at least one, and one
    stays. They are drawn from all alike, at an address of the client's own. BadInputError for a client with a single
    row, and where another client trains on a row that is held out.
    """
    trained, held = [], []
    for client, rows in enumerate(shards):
        distinct = np.unique(rows)
        if len(distinct) < 2:
            raise BadInputError(
                f"client {client} has {len(distinct)} example{'s' * (len(distinct) != 1)}, of which none can be held "
                "out; use fewer clients, another partition, or evaluation.client_holdout = 0"
            )
        count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
        drawn = generator(seed, "client-holdout", client=client).choice(len(distinct), count, replace=False)
        out = np.isin(rows, distinct[drawn])
        trained.append(rows[~out])
        held.append(distinct[np.sort(drawn)])
    both = np.intersect1d(np.concatenate(trained), np.concatenate(held))
    if len(both):
        raise BadInputError(
            "evaluation.client_holdout cannot go with a partition that deals an example to several clients: one would "
            "train on what another holds out"
        )
    return trained, held


def draw_unseen(clients: int, count: int, seed: int) -> np.ndarray:
    """The `count` of N clients that are never trained: sorted int64; a pure function."""
    drawn: np.ndarray = np.sort(generator(seed, "unseen").choice(clients, count, replace=False))
    return drawn
