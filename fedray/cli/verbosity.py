"""Verbosity: --quiet, --log-level, and --json, which keeps stdout for lines that programs read.

The modules write details for finding faults to Python's `logging`, below the logger "fedray". A program that calls
`run()` sees them after `logging.basicConfig(level="DEBUG")`.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any

from fedray.cli.command_line import INTERRUPTED, CommandLine
from fedray.cluster import let_ray_speak
from fedray.core.errors import BadInputError
from fedray.core.settings import nearest

LEVELS = {
    "debug": "also details for finding faults (timings, events of actors, the output of Ray and its workers)",
    "info": "the progress of a run",
    "warning": "notices only",
    "error": "errors only",
}
FLAGS = {
    "quiet": "print nothing but errors; the same as --log-level error",
    "json": "print to stdout only JSON objects, one a line: for the start of a run, each round, each notice and the "
    "end; errors and the details of --log-level debug go to stderr",
}
VALUES = {
    "log-level": (
        "|".join(LEVELS),
        f"how much is printed: {'; '.join(f'{level}, {text}' for level, text in LEVELS.items())} (default info)",
    )
}


@dataclass(frozen=True)
class Verbosity:
    """One of LEVELS, and whether stdout is kept for JSON lines."""

    level: str = "info"
    json: bool = False

    @property
    def shows_progress(self) -> bool:
        return self.level in ("debug", "info") and not self.json

    @property
    def shows_notices(self) -> bool:
        return self.level != "error" and not self.json


def read_verbosity(line: CommandLine) -> Verbosity:
    """The verbosity that the command line asks for; BadInputError for an unknown level, or --quiet with another one."""
    level = line.values.get("log-level", "error" if line.flags["quiet"] else "info")
    if level not in LEVELS:
        raise BadInputError(f"--log-level {level} is not one of {', '.join(LEVELS)}{nearest(level, LEVELS)}")
    if line.flags["quiet"] and level != "error":
        raise BadInputError(f"--quiet is --log-level error, and cannot go with --log-level {level}")
    return Verbosity(level, line.flags["json"])


def speak(verbosity: Verbosity, say: Callable[[str], None], play: Callable[[], int]) -> int:
    """Call `play`, the program's work, at this verbosity, and return its exit status.

    `say` gets the details at level debug. With --json stdout is kept for the lines. An interrupt is raised only where
    notices are shown; otherwise its exit status is returned. It must be called before Ray is imported: Ray reads its
    settings on import.
    """
    try:
        with stdout_kept(verbosity.json), details(say if verbosity.level == "debug" else None):
            return play()
    except KeyboardInterrupt:
        if verbosity.shows_notices:
            raise  # the caller prints how to continue
        return INTERRUPTED


def stdout_kept(wanted: bool) -> AbstractContextManager[Any]:
    """Redirect prints, for example of a client's code, to stderr for the length of a `with`, if `wanted`."""
    return redirect_stdout(sys.stderr) if wanted else nullcontext()


@contextmanager
def details(say: Callable[[str], None] | None) -> Iterator[None]:
    """For the length of a `with`, hand all log records of fedray to `say` and let Ray print; with None do nothing."""
    if say is None:
        yield
        return
    logger, handler = logging.getLogger("fedray"), Said(say)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    let_ray_speak()
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class Said(logging.Handler):
    """A logging handler that hands each record's text to `say`."""

    def __init__(self, say: Callable[[str], None]):
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))
