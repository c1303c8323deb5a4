"""The clients as Ray actors. This folder is the only one that imports ray, and it has Ray be quiet first."""

import os

QUIET = {
    # The raylet's own notices bypass log_to_driver; this filter is read when ray is imported.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker died or was killed|Raylet is terminated|worker processes have been started",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of calls that nobody waits for any more, after another one failed
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # an actor without a GPU share sees no GPU
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)


def let_ray_speak() -> None:
    """Have Ray show all that workers print, but for what the user has set; to be called before ray is imported."""
    for name in ("RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_IGNORE_UNHANDLED_ERRORS"):
        if os.environ.get(name) == QUIET[name]:
            del os.environ[name]
    # Lines of several clients that differ in numbers only are the same to Ray, which then shows the last one.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
