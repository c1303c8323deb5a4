"""Factors on the local learning rate, one for each parameter: the setting model.lr_scale. No torch is needed.

A client descends by lr times the factor times the direction, as torch.optim does with a group of parameters that has a
learning rate of its own. The direction has the weight decay and the momentum in it. Gradients are clipped before.
"""

import math
from collections.abc import Sequence

import numpy as np

from fedray.core.errors import BadInputError
from fedray.models.patterns import fitting

SETTING = "model.lr_scale"
LARGEST = 1e6


def parse(text: str) -> list[tuple[str, float]]:
    """The patterns and factors of `conv1.*=0.1,fc.*=2`, in order; BadInputError where the text is anything else."""
    found = []
    for part in text.split(",") if text.strip() else []:
        pattern, equals, number = part.rpartition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not pattern.strip() or not equals or not 0 <= factor <= LARGEST:
            raise BadInputError(
                f"{SETTING} = {text!r} must be patterns of names, each with a factor of 0 to {LARGEST:g}: conv1.*=0.1"
            )
        found.append((pattern.strip(), factor))
    return found


def factors_by_name(text: str, names: Sequence[str]) -> dict[str, float]:
    """The factor of each trained parameter, 1 where no pattern fits its name. Of several that fit the last one counts.

    BadInputError where a pattern fits none, or where nothing would move.
    """
    found = dict.fromkeys(names, 1.0)
    for pattern, factor in parse(text):
        found |= dict.fromkeys(fitting(pattern, names, SETTING, "parameter that is trained"), factor)
    if found and not any(found.values()):
        raise BadInputError(
            f"{SETTING} = {text!r} has the factor 0 for all that is trained, so that nothing would move"
        )
    return found


def factors(text: str, names: Sequence[str], sizes: Sequence[int]) -> np.ndarray | None:
    """The factors as a vector, float32 [P], of parameters with so many elements each; None where all are 1."""
    found = factors_by_name(text, names)
    if set(found.values()) <= {1.0}:
        return None
    return np.repeat(np.array([found[name] for name in names], np.float32), list(sizes))
