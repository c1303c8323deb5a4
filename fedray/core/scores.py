"""How a model does on labelled images: what passes over parts of them gave, put together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measured:
    """What a model gave for some images, in their order."""

    losses: list[float]
    """The sum of the cross-entropies of each batch, of recipe.evaluation_batch images."""
    predicted: np.ndarray
    """The label of the highest score of each image, of equals the first: int16 [n]."""
    among_top: int | None = None
    """For how many images fewer than k labels rank before the right one, by their scores and of equals in their order;
    a score that is not a number ranks before all. None where no k was given."""


@dataclass(frozen=True, eq=False)
class Performance:
    """How a model does on all images of a split; accuracies are fractions."""

    loss: float
    """Mean cross-entropy."""
    accuracy: float
    top_k_accuracy: float | None
    confusion: np.ndarray
    """How many images of each label (rows) were taken for which (columns): int64 [classes, classes]."""


def performance(parts: Sequence[Measured], labels: np.ndarray, classes: int) -> Performance:
    """What the parts of a split, in the order of its labels, say of the whole; exact sums, so however it was cut."""
    predicted = np.concatenate([part.predicted for part in parts]).astype(np.int64)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    among = [part.among_top for part in parts if part.among_top is not None]
    count = len(labels)
    return Performance(
        loss=math.fsum(loss for part in parts for loss in part.losses) / count,
        accuracy=int(np.trace(confusion)) / count,
        top_k_accuracy=sum(among) / count if among else None,
        confusion=confusion,
    )
