"""Shares of CPUs and GPUs, as Ray counts them: how many parts fit into wholes, and which equal parts do."""

import math
from collections.abc import Sequence

SMALLEST_SHARE = 0.0001  # of a CPU or GPU, the least that Ray counts


def room(wholes: Sequence[float], part: float, most: Sequence[int] = ()) -> int:
    """How many parts the wholes (nodes' CPUs, or single GPUs) hold, none of them across two, and in each `most`."""
    fit = [math.floor(whole / part + 1e-9) for whole in wholes]
    return sum(map(min, fit, most)) if most else sum(fit)


def room_on_gpus(gpus: float, share: float) -> int:
    """How many actors a node's GPUs hold: shares of one, or whole ones."""
    return room(single(gpus), share) if share <= 1 else int(gpus // share)


def single(gpus: float) -> list[float]:
    """GPUs one by one, the last of which may be a part."""
    rest = gpus - int(gpus)
    return [1.0] * int(gpus) + ([rest] if rest >= SMALLEST_SHARE else [])


def share(wholes: Sequence[float], parts: int, most: Sequence[int] = ()) -> float:
    """The largest equal share of at most 1 of which the wholes hold `parts`, rounded down to what Ray can count.

    With `most`, where the wholes may not hold more than so many parts each, if that is possible at all.
    """
    most = most if sum(limit for whole, limit in zip(wholes, most, strict=False) if whole) >= parts else ()
    candidates = (whole / n for whole in wholes if whole for n in range(1, parts + 1))
    fitting = (c for c in candidates if room(wholes, c, most) >= parts)
    return round_down(min(1.0, max(fitting)))


def round_down(part: float) -> float:
    """To what Ray can count."""
    return math.floor(part / SMALLEST_SHARE + 1e-6) * SMALLEST_SHARE


def round_up(part: float) -> float:
    """To what Ray can count."""
    return math.ceil(part / SMALLEST_SHARE - 1e-6) * SMALLEST_SHARE
