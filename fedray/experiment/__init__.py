"""The settings of one run: sections composed, read from TOML, named by an id."""

from typing import TYPE_CHECKING

from fedray.core.lazy import lazy

if TYPE_CHECKING:
    from fedray.experiment.composition import read_experiment
    from fedray.experiment.experiment import Experiment

__all__ = ["Experiment", "read_experiment"]

__getattr__, __dir__ = lazy(
    "fedray.experiment",
    {
        "Experiment": "fedray.experiment.experiment:Experiment",
        "read_experiment": "fedray.experiment.composition:read_experiment",
    },
)
