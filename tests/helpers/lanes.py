"""Lanes of tests: two for those that start Ray, of which more than half the time is waiting, and one for the rest.

`make test` asks for them with `pytest -n 3`. In the rest no Ray can be started, so that a test which does is listed here.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xdist.scheduler import LoadScopeScheduling

RAY = (
    "tests/cli/test_main.py",
    "tests/cli/test_verbosity.py::test_on_ray_",
    "tests/cluster/",
    "tests/docs/test_blocks.py::test_ray_tune_",
    "tests/docs/test_notebook.py",
    "tests/docs/test_readme.py",
    "tests/experiment/test_every_setting.py::test_a_ray_of_its_own_",
    "tests/run/test_interrupt.py",
    "tests/run/test_kills.py::test_killed_on_ray_",
    "tests/run/test_two_at_once.py",
    *(
        f"tests/sweep/test_sweep.py::test_a{rest}"
        for rest in ("_sweep_on_ray_", "_sweep_killed_", "n_interrupt_stops_")
    ),
)
"""How the ids begin of tests that start Ray, in their own process or in a program."""

NO_RAY = ("tests/cluster/test_plan.py", "tests/cluster/test_gpus.py")

SHARING = tuple(
    f"tests/cluster/test_{name}.py"
    for name in (
        "algorithms",
        "breakpoints",
        "evaluate_clients",
        "handles",
        "longer_on_ray",
        "lost_actors",
        "own_ray",
        "population",
        "session",
        "sharing",
        "skewed_clients",
    )
)
"""Files that have one Ray together: they end single actors at most, and the next population has others started."""

LONG = (
    "tests/cluster/test_start.py",
    "tests/cluster/test_nodes.py",
    "tests/run/test_interrupt.py",
    "tests/cli/test_main.py",
    "tests/training/test_fused_models.py",
    "tests/models/",
    "tests/experiment/",
    "tests/test_golden.py",
)
"""The files that take longest, and so begin first."""

RAYS = 2
"""How many workers play tests with Ray while there are others to play: as many as have two cores to do on average."""


def starts_ray(test: str) -> bool:
    return test.startswith(RAY) and not test.startswith(NO_RAY)


def shares_ray(test: str) -> bool:
    return test.startswith(SHARING)


def place(test: str) -> tuple[bool, bool, bool]:
    """Where a test comes in the order of all: first those with Ray, at the end of which those that share one."""
    return not starts_ray(test), shares_ray(test), not test.startswith(LONG)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """A worker plays a file at a time, what it has with Ray apart: RAYS workers with Ray, the others without, until one
    of the kinds is used up."""

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # the order is `place`

    def _split_scope(self, nodeid: str) -> str:
        if shares_ray(nodeid):
            return "one Ray"
        return nodeid.partition("::")[0] + " with Ray" * starts_ray(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        others = sum(has_ray(units) for other, units in self.assigned_work.items() if other is not node)
        wanted = (scope for scope in self.workqueue if scope.endswith("Ray") == (others < RAYS))
        if (scope := next(wanted, None)) is not None:
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


def has_ray(units: dict[str, dict[str, bool]]) -> bool:
    """Whether a test with Ray is still to be played of what a worker was given: by scope, whether each is done."""
    return any(not all(done.values()) for scope, done in units.items() if scope.endswith("Ray"))


class SharedRay:
    """A Ray that stays from file to file, started when it is first asked for."""

    def __init__(self, start: Any) -> None:
        self.start, self.open, self.session = start, contextlib.ExitStack(), None

    def get(self) -> Any:
        self.session = self.session or self.open.enter_context(self.start())
        return self.session

    def close(self) -> None:
        self.session = None
        self.open.close()


def durations(reports: Iterator[Any]) -> Iterator[str]:
    """The seconds of both lanes, of each file and of each test with its fixtures, the longest first."""
    lanes, files, tests = defaultdict(float), defaultdict(float), defaultdict(float)
    for report in reports:
        lanes["tests with Ray" if starts_ray(report.nodeid) else "tests without Ray"] += report.duration
        files[report.nodeid.partition("::")[0]] += report.duration
        tests[report.nodeid] += report.duration
    for found in (lanes, files, tests):
        yield from (f"{found[name]:9.2f}  {name}" for name in sorted(found, key=found.get, reverse=True))
        yield ""


def write_durations(path: Path, reports: Iterator[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(durations(reports)))
