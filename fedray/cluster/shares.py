"""Shares of CPUs and GPUs as Ray counts them: how many parts of a size fit, and the size of parts that fit."""

import math
from collections.abc import Sequence

SMALLEST_SHARE = 0.0001  # the smallest share of a CPU or GPU that Ray counts


def room(wholes: Sequence[float], part: float, most: Sequence[int] = ()) -> int:
    """The number of parts that fit into the wholes (the CPUs of nodes, or single GPUs). No part spans two wholes.

    `most` limits the parts in each whole.
    """
    fit = [math.floor(whole / part + 1e-9) for whole in wholes]
    return sum(map(min, fit, most)) if most else sum(fit)


def room_on_gpus(gpus: float, share: float) -> int:
    """The number of actors that a node's GPUs hold, each with this share of one GPU or with whole ones."""
    return room(single(gpus), share) if share <= 1 else int(gpus // share)


def single(gpus: float) -> list[float]:
    """The GPUs one by one; the last one may be a fraction."""
    rest = gpus - int(gpus)
    return [1.0] * int(gpus) + ([rest] if rest >= SMALLEST_SHARE else [])


def share(wholes: Sequence[float], parts: int, most: Sequence[int] = ()) -> float:
    """The largest share, at most 1, of which `parts` fit into the wholes, rounded down to a share that Ray counts.

    `most` limits the parts in each whole; limits that leave too few parts in all are ignored.
    """
    most = most if sum(limit for whole, limit in zip(wholes, most, strict=False) if whole) >= parts else ()
    candidates = (whole / n for whole in wholes if whole for n in range(1, parts + 1))
    fitting = (c for c in candidates if room(wholes, c, most) >= parts)
    return round_down(min(1.0, max(fitting)))


def round_down(part: float) -> float:
    """The share rounded down to one that Ray counts."""
    return math.floor(part / SMALLEST_SHARE + 1e-6) * SMALLEST_SHARE


def round_up(part: float) -> float:
    """The share rounded up to one that Ray counts."""
    return math.ceil(part / SMALLEST_SHARE - 1e-6) * SMALLEST_SHARE
