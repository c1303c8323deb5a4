"""The data functions of experiments/own are what their pages say."""

import sys
from types import ModuleType

import numpy as np
import pytest

from experiments.own.digits import digits
from fedray.__main__ import main
from fedray.core.errors import BadInputError

ROWS = np.arange(1797 * 64, dtype=np.float64).reshape(1797, 64)


@pytest.fixture
def sklearn(monkeypatch):
    """A stand-in that has its loader alone."""
    module = ModuleType("sklearn.datasets")
    module.load_digits = lambda **_: (ROWS, np.arange(1797) % 10)
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)


def test_the_digits_are_each_in_one_split_with_their_labels(sklearn):
    found = digits()
    rows = np.concatenate([found["train_inputs"], found["test_inputs"]])
    labels = np.concatenate([found["train_targets"], found["test_targets"]])
    assert [len(found["train_inputs"]), len(found["test_inputs"])] == [1437, 360]
    order = np.argsort(rows[:, 0])
    assert np.array_equal(rows[order], ROWS.astype(np.float32)) and rows.dtype == np.float32
    assert np.array_equal(labels[order], np.arange(1797) % 10)
    assert not np.array_equal(order, np.arange(1797))
    assert all(np.array_equal(one, other) for one, other in zip(found.values(), digits().values(), strict=True))


def test_without_scikit_learn_its_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    words = ["--data.dataset=experiments.own.digits:digits", f"--output.root={tmp_path}", "--model.name=mlp"]
    with pytest.raises(BadInputError, match="comes with scikit-learn, which `pip install scikit-learn` installs"):
        main(words)
    assert not list(tmp_path.iterdir())
