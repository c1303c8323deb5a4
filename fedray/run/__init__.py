"""One experiment, start to finish."""

from typing import TYPE_CHECKING

from fedray.core.lazy import lazy

if TYPE_CHECKING:
    from fedray.run.simulation import run

__all__ = ["run"]

__getattr__, __dir__ = lazy("fedray.run", {"run": "fedray.run.simulation:run"})
