"""How much a program says: --quiet, --log-level, and --json, which keeps stdout for lines that programs read.

What only helps to find a fault, the modules say by Python's own `logging` below "fedray", so that whoever calls `run()`
from Python can have it too: `logging.basicConfig(level="DEBUG")`.
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
    "debug": "also what helps to find a fault (what took how long, what befell actors, what Ray and its workers print)",
    "info": "all of a run's progress",
    "warning": "notices only",
    "error": "errors only",
}
FLAGS = {
    "quiet": "print nothing but errors; the same as --log-level error",
    "json": "print a JSON object in a line of its own for the start of a run, each round, each notice and the end, and "
    "nothing else: stdout is the lines, stderr what --log-level debug says, and errors",
}
VALUES = {
    "log-level": (
        "|".join(LEVELS),
        f"how much is printed: {'; '.join(f'{level}, {text}' for level, text in LEVELS.items())} (default info)",
    )
}


@dataclass(frozen=True)
class Verbosity:
    """One of LEVELS, and whether stdout is for JSON."""

    level: str = "info"
    json: bool = False

    @property
    def shows_progress(self) -> bool:
        return self.level in ("debug", "info") and not self.json

    @property
    def shows_notices(self) -> bool:
        return self.level != "error" and not self.json


def read_verbosity(line: CommandLine) -> Verbosity:
    """What the command line says of it; BadInputError where that is no level, or two."""
    level = line.values.get("log-level", "error" if line.flags["quiet"] else "info")
    if level not in LEVELS:
        raise BadInputError(f"--log-level {level} is not one of {', '.join(LEVELS)}{nearest(level, LEVELS)}")
    if line.flags["quiet"] and level != "error":
        raise BadInputError(f"--quiet is --log-level error, and cannot go with --log-level {level}")
    return Verbosity(level, line.flags["json"])


def speak(verbosity: Verbosity, say: Callable[[str], None], play: Callable[[], int]) -> int:
    """The exit status of what the program is there for, `play`, which an interrupt may end without a word.

    Details are said where they are wanted, and stdout is kept for the lines of --json. To be called before Ray is
    imported, which takes the word for its own then.
    """
    try:
        with stdout_kept(verbosity.json), details(say if verbosity.level == "debug" else None):
            return play()
    except KeyboardInterrupt:
        if verbosity.shows_notices:
            raise  # to be told how to go on
        return INTERRUPTED


def stdout_kept(wanted: bool) -> AbstractContextManager[Any]:
    """For the length of a `with`, whatever prints does so to stderr, the code of a client for example."""
    return redirect_stdout(sys.stderr) if wanted else nullcontext()


@contextmanager
def details(say: Callable[[str], None] | None) -> Iterator[None]:
    """For the length of a `with`, what the modules log is said, and what Ray prints is seen."""
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
    """Hands each record's sentence on."""

    def __init__(self, say: Callable[[str], None]):
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))
