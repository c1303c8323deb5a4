"""Confusion counts: those of a round, packed for the journal, and those of the best and the final model.

Any round may be the last one that a killed process leaves. So each round has its counts in the journal. They are
packed, since with many classes they would as JSON take a thousand times the room of the round's other numbers.
"""

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedray.core.metrics import sign
from fedray.results.schema import Columns, judging_column, to_rows

COUNTS = ("round", "split", "label", "predicted", "count")


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


def pack(counts: Columns) -> Columns:
    """The counts of a round as the journal has them: a row for each split, whose `counts` are text.

    The text is compressed 8-byte integers in base64, all their first bytes in front, then their second ones and so on.
    The integers are the number of classes, the steps from one count's place in the matrix, row by row, to the next,
    and the counts.
    """
    splits = list(dict.fromkeys(counts["split"]))
    packed: Columns = {"round": counts["round"][: len(splits)], "split": list(splits), "counts": []}
    columns = [np.array(counts[name], np.int64) for name in ("label", "predicted", "count")]
    for split in splits:
        of_split = np.array([each == split for each in counts["split"]])
        label, predicted, count = (values[of_split] for values in columns)
        classes = 1 + predicted.max()
        numbers = np.concatenate([[classes], np.diff(label * classes + predicted, prepend=0), count]).astype("<i8")
        shuffled = numbers.view(np.uint8).reshape(-1, 8).T.tobytes()
        packed["counts"].append(base64.b64encode(zlib.compress(shuffled)).decode())
    return packed


def unpack(packed: Columns) -> Columns:
    """The inverse of `pack`, without the column `which`; ValueError, or TypeError, where that cannot be."""
    counts: Columns = {name: [] for name in COUNTS}
    for t, split, text in zip(packed["round"], packed["split"], packed["counts"], strict=True):
        try:
            shuffled = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8)
        except zlib.error as error:
            raise ValueError(f"the counts of round {t} cannot be unpacked: {error}") from None
        classes, *_ = numbers = np.ascontiguousarray(shuffled.reshape(8, -1).T).view("<i8").ravel()
        steps, count = numbers[1:].reshape(2, -1)
        places = steps.cumsum()
        if not (0 < classes < 2**31 and (places >= 0).all() and (places < classes * 2**31).all()):
            raise ValueError(f"the counts of round {t} are those of no matrix")
        label, predicted = np.divmod(places, classes)
        columns = ([t] * len(count), [split] * len(count), label.tolist(), predicted.tolist(), count.tolist())
        for name, values in zip(counts, columns, strict=True):
            counts[name] += values
    return counts


class BestAndFinal:
    """The counts of the best and of the last round, of all that it is shown in order. A table of all would be large.

    The best round is by the measure that target and patience go by, which the column `judged_by` of `runs` says. Of
    equals it is the first.
    """

    def __init__(self, judged_by: str | None = None) -> None:
        self.judged_by = judged_by
        self.counts: dict[str, Columns] = {}
        self.highest = -math.inf

    def show(self, line: Mapping[str, Columns]) -> None:
        """Take in a line of the journal. A round that was not evaluated changes nothing."""
        if not line["confusion"]["counts"]:
            return
        (row,) = to_rows(line["rounds"])
        judge = judging_column(self.judged_by, [row])
        if row[judge] is not None and sign(judge) * row[judge] > self.highest:
            self.highest, self.counts["best"] = sign(judge) * row[judge], line["confusion"]
        self.counts["final"] = line["confusion"]

    @property
    def columns(self) -> Columns:
        """The columns of the confusion table."""
        columns: Columns = {name: [] for name in ("which", *COUNTS)}
        for which, packed in self.counts.items():
            counts = unpack(packed)
            columns["which"] += [which] * len(counts["count"])
            for name, values in counts.items():
                columns[name] += values
        return columns
