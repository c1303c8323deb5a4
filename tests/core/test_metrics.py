"""Metrics: values derived by hand, laws, and scikit-learn's own numbers where it is installed."""

import math

import numpy as np
import pytest
from small_data import bits_of

from fedray.core import metrics
from fedray.core.metrics import area_under, auc_of, f1_of, log_odds, measurable, sign
from fedray.core.scores import Measured, performance


def test_f1_and_balanced_accuracy_of_a_confusion_matrix_by_hand():
    """Class 0: TP 1, FN 1, FP 1, F1 2/4. Class 1: TP 1, FP 1, F1 2/3. Class 2: TP 2, FN 1, F1 4/5. Class 3 is nowhere."""
    confusion = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    assert f1_of(confusion) == pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 3)
    assert metrics.balanced_accuracy_of(confusion) == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)


def test_a_class_that_is_only_predicted_counts_in_f1_and_not_in_balanced_accuracy():
    confusion = np.array([[3, 1], [0, 0]])
    assert f1_of(confusion) == pytest.approx((6 / 7 + 0) / 2)
    assert metrics.balanced_accuracy_of(confusion) == 0.75


def test_a_perfect_predictor_has_1_of_all_and_no_error():
    labels = np.array([0, 2, 1, 2, 4])
    scores = np.eye(5, dtype=np.float32)[labels]
    found = performance([Measured([0.0], labels.astype(np.int16), scores=scores)], labels, 5)
    assert [found.metric(name) for name in ("f1", "balanced_accuracy", "auc")] == [1.0, 1.0, 1.0]
    marks = np.float32([[1, 0], [0, 1], [1, 1]])
    several = performance([Measured([0.0], None, scores=4 * marks - 2)], marks, 2, "labels")
    assert (several.accuracy, several.metric("f1"), several.metric("auc")) == (1.0, 1.0, 1.0)
    real = performance([Measured([0.0], None, scores=marks)], marks, 2, "values")
    assert (real.accuracy, real.metric("mae"), real.metric("rmse")) == (None, 0.0, 0.0)


def test_mae_and_rmse_by_hand():
    """Errors 1, -3 in one column and 0, 4 in the other: MAE 8/4; RMSE the mean of sqrt(10/2) and sqrt(16/2)."""
    scores, values = np.float32([[2, 5], [0, 9]]), np.float32([[1, 5], [3, 5]])
    assert metrics.mae_of(scores, values) == 2.0
    assert metrics.rmse_of(scores, values) == pytest.approx((math.sqrt(5) + math.sqrt(8)) / 2)


def test_labels_by_hand():
    """Of 6 decisions 4 are right. Label 0: TP 1, FP 1; label 1: TP 1, FN 1, F1 2/3 both; label 2 is nowhere."""
    labels = np.float32([[1, 1, 0], [0, 1, 0]])
    scores = np.float32([[0.5, -1, -2], [0.1, 3, -2]])
    found = performance([Measured([1.0], None, scores=scores)], labels, 3, "labels")
    assert found.accuracy == 4 / 6
    assert found.metric("f1") == pytest.approx(2 / 3)
    assert found.metric("auc") == 1.0  # label 0 alone has both
    assert found.confusion is None
    assert found.metric("balanced_accuracy") is None


def pairs(scores, positive):
    """The AUC by its definition, over all pairs."""
    ones, zeros = scores[positive], scores[~positive]
    return ((ones[:, None] > zeros).sum() + 0.5 * (ones[:, None] == zeros).sum()) / (len(ones) * len(zeros))


@pytest.mark.parametrize("values", [2, 5, 1000])
def test_the_area_by_ranks_is_the_share_of_pairs_in_the_right_order(values):
    rng = np.random.default_rng(values)
    scores, positive = rng.integers(0, values, 83) / 7, rng.random(83) < 0.3
    area = area_under(scores, positive)
    assert area == pytest.approx(pairs(scores, positive), abs=1e-15)
    assert area_under(np.exp(scores / 100), positive) == area  # invariant under what keeps the order
    assert area_under(-scores, positive) == pytest.approx(1 - area, abs=1e-15)
    assert area_under(scores * 0, positive) == 0.5
    assert area_under(scores, positive | True) is area_under(scores, positive & False) is None


def test_the_auc_of_classes_is_of_the_difference_or_of_each_against_the_rest():
    rng = np.random.default_rng(1)
    two, labels = rng.normal(size=(60, 2)).astype(np.float32), np.arange(60) % 2
    assert auc_of(two, labels, "classes") == pytest.approx(pairs(two[:, 1].astype(float) - two[:, 0], labels == 1))
    four, labels = 3 * rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3  # of class 3 there is none
    chances = np.exp(four.astype(float)) / np.exp(four.astype(float)).sum(1, keepdims=True)
    expected = np.mean([pairs(chances[:, label], labels == label) for label in range(3)])
    assert auc_of(four, labels, "classes") == pytest.approx(expected)
    assert auc_of(four + np.float32(8), labels, "classes") == pytest.approx(expected)
    assert auc_of(four * 0, labels, "classes") == 0.5
    assert auc_of(four, labels * 0, "classes") is None
    four[0, 0] = np.nan
    assert math.isnan(auc_of(four, labels, "classes"))


def test_log_odds_order_what_the_softmax_rounds_to_one():
    odds = log_odds(np.float32([[50, 0, 0], [60, 0, 0], [0, 0, 0]]))
    assert odds[0, 0] == pytest.approx(50 - math.log(2))
    assert odds[1, 0] == pytest.approx(60 - math.log(2))
    assert odds[2] == pytest.approx(-math.log(2))
    chances = 1 / (1 + np.exp(-odds))
    assert chances.sum(1) == pytest.approx(1)


def test_scikit_learn_says_the_same():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    for classes in (2, 3, 7):
        labels, scores = rng.integers(0, classes, 200), rng.normal(size=(200, classes)).astype(np.float32).round(1)
        predicted = scores.argmax(1)
        measured = Measured([0.0], predicted.astype(np.int16), scores=scores)
        found = performance([measured], labels, classes)
        assert found.metric("f1") == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
        assert found.metric("balanced_accuracy") == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
        wide = scores.astype(float)
        chances = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
        given = wide[:, 1] - wide[:, 0] if classes == 2 else chances
        assert found.metric("auc") == pytest.approx(sklearn.roc_auc_score(labels, given, multi_class="ovr"), abs=1e-4)
    marks, scores = (rng.random((200, 4)) < 0.3).astype(np.float32), rng.normal(size=(200, 4)).astype(np.float32)
    scores[:, 3] = marks[:, 3] = -1
    marks[:, 3] = 0
    found = performance([Measured([0.0], None, scores=scores)], marks, 4, "labels")
    assert found.metric("f1") == pytest.approx(
        sklearn.f1_score(marks, scores > 0, average="macro", zero_division=np.nan)
    )
    assert found.accuracy == pytest.approx(1 - sklearn.hamming_loss(marks, scores > 0))
    assert found.metric("auc") == pytest.approx(sklearn.roc_auc_score(marks[:, :3], scores[:, :3]))
    values = rng.normal(size=(200, 3)).astype(np.float32)
    real = performance([Measured([0.0], None, scores=scores[:, :3])], values, 3, "values")
    assert real.metric("mae") == pytest.approx(sklearn.mean_absolute_error(values, scores[:, :3]))
    assert real.metric("rmse") == pytest.approx(sklearn.root_mean_squared_error(values, scores[:, :3]))


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_parts_cut_anywhere_give_the_same_bits(kind):
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(90, 3)).astype(np.float32)
    targets = {
        "classes": rng.integers(0, 3, 90),
        "labels": (rng.random((90, 3)) < 0.4).astype(np.float32),
        "values": rng.normal(size=(90, 3)).astype(np.float32),
    }[kind]
    predicted = scores.argmax(1).astype(np.int16) if kind == "classes" else None

    def measures(*cuts):
        parts = [
            Measured([0.0], None if predicted is None else predicted[first:last], scores=scores[first:last])
            for first, last in zip((0, *cuts), (*cuts, 90), strict=True)
        ]
        found = performance(parts, targets, 3, kind)
        return [found.accuracy, *(found.metric(name) for name in metrics.METRICS)]

    assert measures() == measures(1, 50) == measures(30, 31, 89)
    assert [name for name, value in zip(metrics.METRICS, measures()[1:], strict=True) if value is not None] == list(
        measurable(kind)
    )


def test_less_is_better_of_losses_and_errors_alone():
    assert [sign(name) for name in ("test_loss", "validation_rmse", "mae", "client_loss")] == [-1] * 4
    assert [sign(name) for name in ("test_accuracy", "validation_f1", "test_own_metric", "test_auc")] == [1] * 4


def test_without_scores_there_is_no_auc_and_the_rest_is_there():
    labels = np.array([0, 1, 1])
    found = performance([Measured([1.0], np.int16([0, 1, 0]))], labels, 2)
    assert found.metric("auc") is found.metric("mae") is None
    assert found.metric("f1") == pytest.approx(2 / 3)
    assert bits_of(found)[:2] == (1 / 3, 2 / 3)
