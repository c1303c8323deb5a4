"""Metrics of a model's scores, by the definitions of scikit-learn 1.x (sklearn.metrics), in NumPy alone.

A metric that is not defined, such as the AUC of labels that are all alike, is None. One of scores that are not finite
is NaN.
"""

import math
from typing import Literal

import numpy as np

Targets = Literal["classes", "labels", "values"]
"""Classes are int64 [n]; labels are float32 [n, K] of 0 and 1; values are float32 [n, d]. Scores are [n, K] or [n, d].

A label is predicted where its score, a logit, is above 0."""

ALWAYS: dict[Targets, tuple[str, ...]] = {
    "classes": ("f1", "balanced_accuracy"),
    "labels": ("f1", "auc"),
    "values": ("mae", "rmse"),
}
"""The metrics that cost nothing, since a confusion matrix or the scores are there anyway."""
METRICS = ("f1", "balanced_accuracy", "auc", "mae", "rmse")
"""The metrics by name. Each is a column of `rounds` for each split."""
LOWER_IS_BETTER = ("loss", "mae", "rmse")


def measurable(targets: Targets) -> tuple[str, ...]:
    """The metrics that these targets have, in the order of METRICS."""
    return tuple(name for name in METRICS if name in ALWAYS[targets] or (name == "auc" and targets == "classes"))


def sign(column: str) -> int:
    """The sign of better: -1 for a loss, a MAE or an RMSE, of which less is better, otherwise 1.

    `column` may have a split in front (`test_loss`)."""
    return -1 if column.rpartition("_")[2] in LOWER_IS_BETTER else 1


def f1_of(confusion: np.ndarray) -> float | None:
    """Macro F1 (`f1_score(average="macro")`) of a confusion matrix [K, K], rows the labels.

    It is the mean of 2 TP / (2 TP + FP + FN) over the classes that a label or a prediction has.
    """
    return mean_f1(np.diag(confusion), confusion.sum(1), confusion.sum(0))


def mean_f1(right: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> float | None:
    """Macro F1 from the counts of each class [K]: predicted rightly, there, and predicted at all."""
    known = there + predicted > 0
    found = 2 * right[known] / (there + predicted)[known]
    return math.fsum(found.tolist()) / len(found) if len(found) else None


def balanced_accuracy_of(confusion: np.ndarray) -> float | None:
    """The mean recall over the classes that a label has (`balanced_accuracy_score`)."""
    counts = confusion.sum(1)
    recalls = np.diag(confusion)[counts > 0] / counts[counts > 0]
    return math.fsum(recalls.tolist()) / len(recalls) if len(recalls) else None


def f1_of_labels(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Macro F1 over the labels that some example has or is predicted to have; scores and labels are [n, K].

    That is `f1_score(average="macro", zero_division=np.nan)`.
    """
    said, there = scores > 0, labels > 0.5
    return mean_f1((said & there).sum(0), there.sum(0), said.sum(0))


def accuracy_of_labels(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of all n x K decisions on a label that are right: 1 - `hamming_loss`."""
    return int(((scores > 0) == (labels > 0.5)).sum()) / max(1, labels.size)


def auc_of(scores: np.ndarray, targets: np.ndarray, kind: Targets) -> float | None:
    """The area under the ROC curve (`roc_auc_score`).

    Of two classes it is that of the difference of their scores. Of more it is the mean over classes of each against the
    rest (`multi_class="ovr"`, of the softmax), of labels the mean over labels. A class or label that all or none of the
    examples have does not count; None where none counts.
    """
    if not np.isfinite(scores).all():
        return math.nan
    if kind == "classes":
        columns = [scores[:, 1].astype(float) - scores[:, 0]] if scores.shape[1] == 2 else list(log_odds(scores).T)
        marks = [targets == (1 if len(columns) == 1 else label) for label in range(len(columns))]
    else:
        columns, marks = list(scores.T), list(targets.T > 0.5)
    areas = [
        area for column, mark in zip(columns, marks, strict=True) if (area := area_under(column, mark)) is not None
    ]
    return math.fsum(areas) / len(areas) if areas else None


def area_under(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The chance that a positive example has a higher score [n] than a negative one, equal scores counting half.

    It comes from the ranks (Mann, Whitney 1947, "On a test of whether one of two random variables is stochastically
    larger than the other"), of which equal scores share the mean. None where all or none are positive.
    """
    n, ones = len(scores), int(positive.sum())
    if ones in (0, n):
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    twice = 2 * np.cumsum(counts) - counts + 1  # the mean rank of each value, times 2, which is whole
    return (int(twice[place.ravel()[positive]].sum()) - ones * (ones + 1)) / (2 * ones * (n - ones))


def log_odds(scores: np.ndarray) -> np.ndarray:
    """The logarithms of p / (1 - p), p the softmax of the scores [n, K]; they order examples as p does, and finer."""
    wide = scores.astype(float) - scores.max(1, keepdims=True)
    logs = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    rows, top = np.arange(len(wide)), wide.argmax(1)
    others = np.exp(wide)
    others[rows, top] = 0.0
    first = -np.log(np.maximum(others.sum(1), np.finfo(float).tiny))  # the highest score is 0 here
    logs[rows, top] = -np.inf
    found: np.ndarray = logs - np.log1p(-np.exp(logs))
    found[rows, top] = first
    return found


def mae_of(scores: np.ndarray, values: np.ndarray) -> float:
    """The mean of |score - value| over examples and columns (`mean_absolute_error`)."""
    return math.fsum(np.abs(scores.astype(float) - values).ravel().tolist()) / values.size


def rmse_of(scores: np.ndarray, values: np.ndarray) -> float:
    """The mean over columns of the root of the mean squared error (`root_mean_squared_error`)."""
    squares = (scores.astype(float) - values) ** 2
    roots = [math.sqrt(math.fsum(column.tolist()) / len(squares)) for column in squares.T]
    return math.fsum(roots) / len(roots)
