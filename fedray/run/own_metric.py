"""A metric of the user's own: a function of a split's scores and targets, called where the run is recorded."""

import math
import numbers
from typing import Any

import numpy as np

from fedray.core import own_code
from fedray.core.errors import BadInputError, ClientError
from fedray.data.dataset import Dataset, Split

OWN_METRIC = "evaluation.own_metric"


class OwnMetric:
    """The function at an address package.module:function, as its file is with this fingerprint."""

    def __init__(self, address: str, fingerprint: str):
        """BadInputError where the module has no such function, or fails to import."""
        self.name = address.partition(":")[2]
        module = own_code.load(address, OWN_METRIC, fingerprint)
        self.function = getattr(module, self.name, None)
        self.said = f"{OWN_METRIC} = {address}"
        if not callable(self.function):
            raise BadInputError(f"{self.said}: {module.__name__} has no function {self.name}")

    def measure(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The metric of scores, float32 [n, outputs], and targets [n] or [n, outputs]; both are copies.

        BadInputError, in one sentence, where the function fails or does not return a finite number.
        """
        try:
            found: Any = self.function(scores.copy(), targets.copy())  # type: ignore[misc]
        except (Exception, SystemExit) as error:
            raise BadInputError(f"{self.said} fails: {own_code.describe(error)}") from error
        if isinstance(found, np.ndarray) and found.ndim == 0:
            found = found.item()
        if isinstance(found, bool) or not isinstance(found, numbers.Real) or not math.isfinite(found):
            raise BadInputError(f"{self.said} returned {str(found)[:80]}, which is not a finite number")
        return float(found)

    def of(self, scores: np.ndarray | None, targets: np.ndarray | None, loss: float) -> float | None:
        """The metric of an evaluation; None of a model that has diverged, whose loss is not finite. ClientError where
        the function fails."""
        if scores is None or targets is None or not math.isfinite(loss):
            return None
        try:
            return self.measure(scores, targets)
        except BadInputError as error:
            raise ClientError(str(error)) from error

    def attempt(self, dataset: Dataset, split: Split) -> None:
        """Try the function on random scores for a split; BadInputError where it fails.

        Real targets are tried with one another's values, which are in their range.
        """
        targets, rng = dataset.examples(split)[1], np.random.default_rng(0)
        if dataset.kind.targets == "values":
            scores = targets[rng.permutation(len(targets))]
        else:
            scores = rng.standard_normal((len(targets), len(dataset.classes)), dtype=np.float32)
        self.measure(scores, targets)
