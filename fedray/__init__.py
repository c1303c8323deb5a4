"""fedray: a federated-learning simulator on Ray."""

from typing import TYPE_CHECKING

from fedray.core.lazy import lazy

if TYPE_CHECKING:
    from fedray.algorithms.fedavg import FedAvg
    from fedray.cli.console import ConsoleWatch
    from fedray.core.settings import section, setting
    from fedray.experiment.composition import read_experiment
    from fedray.results.folder import load
    from fedray.run.simulation import run as simulate

__version__ = "0.4.0.dev0"
__all__ = ["ConsoleWatch", "FedAvg", "load", "read_experiment", "section", "setting", "simulate"]

__getattr__, __dir__ = lazy(
    "fedray",
    {
        "ConsoleWatch": "fedray.cli.console:ConsoleWatch",
        "FedAvg": "fedray.algorithms.fedavg:FedAvg",
        "load": "fedray.results.folder:load",
        "read_experiment": "fedray.experiment.composition:read_experiment",
        "section": "fedray.core.settings:section",
        "setting": "fedray.core.settings:setting",
        "simulate": "fedray.run.simulation:run",
    },
)
