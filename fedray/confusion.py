"""Which labels the server's model takes for which: the counts of a round, and those of the best and the final model."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedray.tables import OWN, Columns, to_rows


def confusion_columns(confusion: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """The confusion matrices of the splits as columns of the table: a row for each count above 0."""
    columns: dict[str, list[Any]] = {name: [] for name in ("split", "label", "predicted", "count")}
    for split, counts in confusion.items():
        label, predicted = np.nonzero(counts)
        columns["split"] += [split] * len(label)
        columns["label"] += label.tolist()
        columns["predicted"] += predicted.tolist()
        columns["count"] += counts[label, predicted].tolist()
    return columns


class BestAndFinal:
    """The counts of the best and of the last of the rounds that it is shown, in order; a table of all would be large.

    The best round is the one that target and patience go by, the first of equals: by the validation split where there
    is one, otherwise by the test set.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Columns] = {}
        self.highest = -math.inf

    def show(self, line: Mapping[str, Columns]) -> None:
        """A journal line; one of a round that was not evaluated changes nothing."""
        if not line["confusion"]["count"]:
            return
        (row,) = to_rows(line["rounds"])
        accuracy = row["test_accuracy"] if row["validation_accuracy"] is None else row["validation_accuracy"]
        if accuracy is not None and accuracy > self.highest:
            self.highest, self.counts["best"] = accuracy, line["confusion"]
        self.counts["final"] = line["confusion"]

    @property
    def columns(self) -> Columns:
        """The columns of the confusion table."""
        columns: Columns = {name: [] for name in OWN["confusion"]}
        for which, counts in self.counts.items():
            for name, values in columns.items():
                values += [which] * len(counts["count"]) if name == "which" else counts[name]
        return columns
