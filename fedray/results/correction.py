"""P values corrected for several comparisons."""

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted by Holm (1979, Scandinavian Journal of Statistics 6, 65), in the order given.

    With the m p values in ascending order, p_(1) to p_(m), the k-th becomes the largest of (m - j + 1) p_(j) for j up
    to k, at most 1. Among all that are below alpha afterwards, the chance that one or more is no real difference is at
    most alpha. NaN stays NaN and is not counted.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted
