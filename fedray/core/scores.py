"""Performance of a model on labelled examples, put together from parts of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedray.core import metrics
from fedray.core.metrics import Targets


@dataclass(frozen=True)
class Measured:
    """Losses and predictions of a model for a part of a split, in the order of its examples."""

    losses: list[float]
    """The sum of the losses of each batch of recipe.evaluation_batch examples."""
    predicted: np.ndarray | None
    """The label with the highest score for each example, int16 [n]; of equal scores, the first. None where targets are
    no classes."""
    among_top: int | None = None
    """The number of examples whose right label is among the first k. Labels rank by score, and equal scores by label. A
    score that is not a number ranks first. None without k."""
    scores: np.ndarray | None = None
    """The model's outputs, float32 [n, outputs], where they were asked for or where targets are no classes."""


@dataclass(frozen=True, eq=False)
class Performance:
    """A model's performance on a whole split. Accuracies are fractions."""

    loss: float
    """Mean loss."""
    accuracy: float | None
    """Of classes the share of examples that are right, of labels the share of decisions on a label, of values None."""
    top_k_accuracy: float | None
    confusion: np.ndarray | None
    """The number of examples of each label (row) that were predicted as each label (column): int64 [classes, classes].
    None where targets are no classes."""
    scores: np.ndarray | None = None
    """As in Measured, of the whole split."""
    targets: np.ndarray | None = None
    """The split's targets."""
    kind: Targets = "classes"

    def metric(self, name: str) -> float | None:
        """A metric by its name in core/metrics.py. None where it is not defined, or needs scores that are not there.

        It is a function of the counts or of all scores at once, so the cuts between parts do not matter.
        """
        if self.confusion is not None and name in ("f1", "balanced_accuracy"):
            return metrics.f1_of(self.confusion) if name == "f1" else metrics.balanced_accuracy_of(self.confusion)
        if self.scores is None or self.targets is None or name not in metrics.measurable(self.kind):
            return None
        if name == "auc":
            return metrics.auc_of(self.scores, self.targets, self.kind)
        found = {"f1": metrics.f1_of_labels, "mae": metrics.mae_of, "rmse": metrics.rmse_of}[name]
        return found(self.scores, self.targets)


def performance(parts: Sequence[Measured], targets: np.ndarray, classes: int, kind: Targets = "classes") -> Performance:
    """The performance on a split from its parts in order. Sums are exact, so the cuts between parts do not matter."""
    count = len(targets)
    loss = math.fsum(loss for part in parts for loss in part.losses) / count
    pieces = [part.scores for part in parts if part.scores is not None]
    scores = np.concatenate(pieces) if pieces else None
    if kind != "classes":
        accuracy = metrics.accuracy_of_labels(scores, targets) if kind == "labels" and scores is not None else None
        return Performance(loss, accuracy, None, None, scores, targets, kind)
    predicted = np.concatenate([part.predicted for part in parts if part.predicted is not None]).astype(np.int64)
    confusion = np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)
    among = [part.among_top for part in parts if part.among_top is not None]
    return Performance(
        loss=loss,
        accuracy=int(np.trace(confusion)) / count,
        top_k_accuracy=sum(among) / count if among else None,
        confusion=confusion,
        scores=scores,
        targets=targets,
    )
