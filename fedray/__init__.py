"""fedray: a federated-learning simulator on Ray."""

from typing import TYPE_CHECKING

from fedray.core.lazy import lazy
from fedray.core.version import __version__

if TYPE_CHECKING:
    from fedray.algorithms.fedavg import FedAvg
    from fedray.cli.console import ConsoleWatch
    from fedray.core.settings import section, setting
    from fedray.experiment.composition import read_experiment
    from fedray.results.folder import load
    from fedray.run.session import session
    from fedray.run.simulation import run as simulate

__all__ = [
    "ConsoleWatch",
    "FedAvg",
    "__version__",
    "load",
    "read_experiment",
    "section",
    "session",
    "setting",
    "simulate",
]

__getattr__, __dir__ = lazy(
    "fedray",
    {
        "ConsoleWatch": "fedray.cli.console:ConsoleWatch",
        "FedAvg": "fedray.algorithms.fedavg:FedAvg",
        "load": "fedray.results.folder:load",
        "read_experiment": "fedray.experiment.composition:read_experiment",
        "section": "fedray.core.settings:section",
        "session": "fedray.run.session:session",
        "setting": "fedray.core.settings:setting",
        "simulate": "fedray.run.simulation:run",
    },
)
