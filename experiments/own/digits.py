"""Handwritten digits as a table: 1,797 rows of 64 numbers, which scikit-learn ships.

Alpaydin, Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository: 8 x 8 pixels with
values from 0 to 16, here as features in no order.
"""

from typing import Any

import numpy as np

TEST, SEED = 360, 0


def digits() -> dict[str, Any]:
    """1,437 training and 360 test rows, float32 [n, 64], always the same; ImportError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError("this table comes with scikit-learn, which `pip install scikit-learn` installs") from None
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(rows))
    rows, labels = rows[order].astype(np.float32), labels[order].astype(np.int64)
    return {
        "train_inputs": rows[TEST:],
        "train_targets": labels[TEST:],
        "test_inputs": rows[:TEST],
        "test_targets": labels[:TEST],
        "classes": [str(digit) for digit in range(10)],
    }
