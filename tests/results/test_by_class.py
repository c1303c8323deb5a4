"""Per-class accuracy and the confusion table for pandas, worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from fedray.core.errors import BadInputError
from fedray.results import confusion, load, per_class
from fedray.results.confusion_counts import confusion_columns
from fedray.results.recorder import Recorder
from fedray.results.schema import GROUPING

FIRST, SECOND = [[8, 2, 0], [1, 3, 0], [0, 0, 0]], [[5, 5, 0], [0, 4, 0], [0, 0, 0]]
"""Of ten cats and four dogs; there is no bird. 11 of 14 are right, then 9."""
NAMES = ["cat", "dog", "bird"]


def record(root, run, seed=0, rounds=(FIRST, SECOND), validation=None):
    grouping = dict.fromkeys(GROUPING) | {"algorithm": "fedavg", "seed": seed, "alpha": None}
    made = Recorder(root, "name", run, grouping, {"settings": json.dumps({"seed": seed}), "partition_id": "p"})
    made.start([], [{"client": 0, "label": label, "label_name": name, "count": 1} for label, name in enumerate(NAMES)])
    for t, counts in enumerate(map(np.array, rounds), start=1):
        row = {"round": t, "test_accuracy": np.trace(counts) / counts.sum()}
        splits = {"test": counts}
        if validation:
            splits["validation"] = np.array(validation[t - 1])
            row["validation_accuracy"] = np.trace(splits["validation"]) / splits["validation"].sum()
        made.round(row, [], confusion=confusion_columns(splits))
    made.finish("finished")


def test_recall_precision_and_support_of_each_class(tmp_path):
    """Recall is by row: 5 of 10 cats, 4 of 4 dogs; precision by column: 5 of 5, 4 of 9. Of birds nothing is known."""
    record(tmp_path, "a")
    record(tmp_path, "b", seed=1, rounds=(FIRST,))
    found = per_class(load("name", tmp_path))
    assert list(found) == ["run", *GROUPING, "round", "label", "label_name", "support", "recall", "precision"]
    assert found["run"].tolist() == ["a"] * 3 + ["b"] * 3
    assert found["seed"].tolist() == [0] * 3 + [1] * 3
    assert found["round"].tolist() == [2] * 3 + [1] * 3
    assert found["label_name"].tolist() == NAMES * 2
    assert found["support"].tolist() == [10, 4, 0] * 2
    np.testing.assert_array_equal(found["recall"], [0.5, 1.0, np.nan, 0.8, 0.75, np.nan])
    np.testing.assert_array_equal(found["precision"], [1.0, 4 / 9, np.nan, 8 / 9, 3 / 5, np.nan])
    best = per_class(load("name", tmp_path), at="best")
    assert best["round"].tolist() == [1] * 6
    assert best["recall"].tolist()[:2] == best["recall"].tolist()[3:5] == [0.8, 0.75]
    assert found.groupby(["algorithm", "label_name"], sort=False)["recall"].mean().tolist()[:2] == [0.65, 0.875]


def test_the_confusion_table_is_square_with_the_names_of_the_classes(tmp_path):
    record(tmp_path, "a", validation=([[0, 1, 0], [1, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 0]]))
    results = load("name", tmp_path)
    for at, split, expected in (
        ("final", "test", SECOND),
        ("best", "test", SECOND),  # the round is the validation split's choice
        ("best", "validation", [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
    ):
        found = confusion(results, "a", at, split)
        assert found.to_numpy().tolist() == expected
        assert found.index.tolist() == found.columns.tolist() == NAMES
        assert (found.index.name, found.columns.name) == ("label", "predicted")
    pd.testing.assert_frame_equal(confusion(results), confusion(results, "a"))
    assert found.loc["cat", "cat"] == 1


def test_a_class_whose_name_is_lost_goes_by_its_number(tmp_path):
    record(tmp_path, "a")
    (tmp_path / "name/partitions/p.parquet").unlink()
    assert confusion(load("name", tmp_path)).index.tolist() == ["0", "1"]  # and nothing tells of birds


def test_what_cannot_be_answered_is_said(tmp_path):
    record(tmp_path, "a")
    results = load("name", tmp_path)
    for wrong, sentence in (
        ({"run": "b"}, "no evaluation of the final model of run 'b' on the test split"),
        ({"run": "a", "split": "validation"}, "of run 'a' on the validation split"),
        ({"run": "a", "at": "first"}, "at = 'first' is not one of final, best"),
        ({"run": "a", "split": "train"}, "split = 'train' is not one of test, validation"),
    ):
        with pytest.raises(BadInputError, match=sentence):
            confusion(results, **wrong)
    record(tmp_path, "b", rounds=())
    with pytest.raises(BadInputError, match="there are 2 runs, so that one must be named"):
        confusion(load("name", tmp_path))
    assert per_class(load("name", tmp_path))["run"].unique().tolist() == ["a"]
    assert per_class(load("name", tmp_path, "b")).empty
