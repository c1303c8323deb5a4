"""Breakpoints where nobody can type: `breakpoint()` in a process of Ray is an error, where it would wait for ever."""

import bdb
import sys
from pathlib import Path
from typing import Any, NoReturn

from fedray.core.errors import BreakpointError

DEBUGGERS = ("bdb", "pdb", "ipdb", "IPython", "ray")


def refuse_breakpoints() -> None:
    """From now on `breakpoint()` and pdb's `set_trace()` raise BreakpointError in this process and its forks."""
    sys.breakpointhook = refuse
    bdb.Bdb.set_trace = refuse  # type: ignore[method-assign]  # of pdb, and of ipdb and all others that are made of it


def refuse(*_: Any, **__: Any) -> NoReturn:
    """Raise BreakpointError with the line that asked for a debugger."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in DEBUGGERS:
        frame = frame.f_back
    raise BreakpointError(
        f"the breakpoint in {Path(frame.f_code.co_filename).name} line {frame.f_lineno} is in a process of Ray, which "
        "has no terminal; --cluster.backend in-process plays the same run, and pdb stops there"
    )
