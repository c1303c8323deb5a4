"""The tables of some results as pandas DataFrames."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The tables of some results as pandas DataFrames; docs/results.md documents their columns.

    `runs` has, besides those, every setting under its dotted name (`algorithm.lr`), and of several results that were
    loaded together `folder`, the name of those that a run is from.
    """

    runs: "pd.DataFrame"
    rounds: "pd.DataFrame"
    clients: "pd.DataFrame"
    population: "pd.DataFrame"
    partitions: "pd.DataFrame"
    metrics: "pd.DataFrame"
    evaluations: "pd.DataFrame"
    confusion: "pd.DataFrame"
    events: "pd.DataFrame"


class DamagedResultsWarning(UserWarning):
    """A file of the results cannot be read, and was left out."""


class NewerResultsWarning(UserWarning):
    """The results have columns of a newer fedray, which were left out."""


class RepeatedRunsWarning(UserWarning):
    """Some results have runs of others that were loaded with them. Each run counts once."""
