"""The table `confusion` made readable: recall and precision of each class, and which class is taken for which."""

from typing import TYPE_CHECKING

import numpy as np

from fedray.core.errors import BadInputError
from fedray.data.dataset import Split
from fedray.results.analysis import check_choice
from fedray.results.comparison import At
from fedray.results.schema import GROUPING

if TYPE_CHECKING:
    import pandas as pd

    from fedray.results.frames import Results


def per_class(results: "Results", at: At = "final", split: Split = "test") -> "pd.DataFrame":
    """Recall and precision of each class of a split: a row for each run and class.

    They are those of the server's model after the run's last evaluated round, or after the best one. `support` counts
    the images of the class. `recall` is the share of them that the model recognises, which is the accuracy on the
    class. `precision` is the share of right answers among those that name the class. Both are null where there are
    none. A run whose server's model was never evaluated has no rows.

    Columns: `run`, the grouping columns, `round`, `label`, `label_name`, `support`, `recall`, `precision`.
    """
    import pandas as pd

    columns = ["run", *GROUPING, "round", "label", "label_name", "support", "recall", "precision"]
    parts = [pd.DataFrame(columns=columns)]
    for run, counts in _counts(results, at, split).groupby("run", sort=False):
        named = _matrix(results, str(run), counts)
        matrix = named.to_numpy()
        right, support, answers = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        of_run = counts[["run", *GROUPING, "round"]].iloc[[0] * len(matrix)].reset_index(drop=True)
        parts.append(
            of_run.assign(
                label=np.arange(len(matrix)),
                label_name=named.index,
                support=support,
                recall=right / np.where(support > 0, support, np.nan),
                precision=right / np.where(answers > 0, answers, np.nan),
            )
        )
    return pd.concat(parts[1:] or parts, ignore_index=True)


def confusion(results: "Results", run: str | None = None, at: At = "final", split: Split = "test") -> "pd.DataFrame":
    """The confusion matrix of a run: images of each class (rows) by the class that they were taken for (columns).

    Classes go by their names. `run` may be left out where there is one run. BadInputError where the server's model of
    the run was never evaluated on the split.
    """
    counts = _counts(results, at, split)
    if run is None:
        if len(results.runs) != 1:
            raise BadInputError(f"there are {len(results.runs)} runs, so that one must be named")
        run = str(results.runs["run"].iloc[0])
    of_run = counts[counts["run"] == run]
    if of_run.empty:
        raise BadInputError(f"there is no evaluation of the {at} model of run {run!r} on the {split} split")
    return _matrix(results, run, of_run)


def _counts(results: "Results", at: At, split: Split) -> "pd.DataFrame":
    check_choice("at", at, ("final", "best"))
    check_choice("split", split, ("test", "validation"))
    table = results.confusion
    return table[(table["which"] == at) & (table["split"] == split)]


def _matrix(results: "Results", run: str, counts: "pd.DataFrame") -> "pd.DataFrame":
    """A run's counts as a square with the names of its classes.

    A class without a name, whose partition is damaged, goes by its number.
    """
    import pandas as pd

    partition = results.runs.loc[results.runs["run"] == run, "partition_id"]
    of_run = results.partitions[results.partitions["partition_id"].isin(partition)]
    known = dict(zip(of_run["label"], of_run["label_name"], strict=True))
    classes = 1 + max([*known, *counts["label"], *counts["predicted"]])
    names = [known.get(label, str(label)) for label in range(classes)]
    matrix = np.zeros((classes, classes), np.int64)
    matrix[counts["label"], counts["predicted"]] = counts["count"]
    return pd.DataFrame(matrix, pd.Index(names, name="label"), pd.Index(names, name="predicted"))
