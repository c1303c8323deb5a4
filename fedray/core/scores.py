"""Loss, accuracy and confusion matrix of a model on labelled images, put together from parts of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measured:
    """Losses and predictions of a model for a part of a split, in the order of its images."""

    losses: list[float]
    """The sum of the cross-entropies of each batch of recipe.evaluation_batch images."""
    predicted: np.ndarray
    """The label with the highest score for each image, int16 [n]; of equal scores, the first."""
    among_top: int | None = None
    """The number of images whose right label is among the first k. Labels rank by score, and equal scores by label. A
    score that is not a number ranks first. None without k."""


@dataclass(frozen=True, eq=False)
class Performance:
    """Loss, accuracy and confusion matrix of a model on a whole split. Accuracies are fractions."""

    loss: float
    """Mean cross-entropy."""
    accuracy: float
    top_k_accuracy: float | None
    confusion: np.ndarray
    """The number of images of each label (row) that were predicted as each label (column): int64 [classes, classes]."""


def performance(parts: Sequence[Measured], labels: np.ndarray, classes: int) -> Performance:
    """The performance on a split from its parts in order. Sums are exact, so the cuts between parts do not matter."""
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
