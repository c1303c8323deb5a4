"""The clients as Ray actors. No other folder imports ray. Importing this one keeps Ray quiet."""

import logging
import os
import warnings

from fedray.core.notebook import in_kernel

QUIET = {
    # The raylet's own notices bypass log_to_driver. Ray reads this filter on import.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker died or was killed|Raylet is terminated|worker processes have been started",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # errors of calls that nobody waits for after another call failed
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # an actor without a GPU share sees no GPU
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)
if in_kernel():  # where Ray, and tqdm that it imports, miss widgets, of which fedray needs none
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "IProgress not found")


def let_ray_speak() -> None:
    """Let Ray show all output of its workers, unless the user has set otherwise. Call it before ray is imported."""
    for name in ("RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_IGNORE_UNHANDLED_ERRORS"):
        if os.environ.get(name) == QUIET[name]:
            del os.environ[name]
    # Ray takes lines of several clients that differ in numbers only for the same line, and shows the last one.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
