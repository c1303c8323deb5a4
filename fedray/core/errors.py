"""The errors: bad input, failures of the user's code in a client, lost processes, damaged or unwritable files."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class BadInputError(ValueError):
    """The user's input cannot be run. The message is one sentence for a stranger (exit status 2)."""


class BreakpointError(BadInputError):
    """A breakpoint in a process without a terminal. The message has its line, and how to play the run with pdb."""


class RunError(RuntimeError):
    """A run cannot go on. The message tells the user why (exit status 1)."""


class ClientError(RunError):
    """Code that a client runs (model, loss, algorithm) raised. The message has the client, the round, the traceback."""


class LostActorError(RunError):
    """An actor's process died again and again under the same call. The message has Ray's last error."""


class BusyError(BadInputError):
    """Another process is at work on the same results."""


class LostStateError(RunError):
    """Memories of clients were lost with a node. The run can go on from its last checkpoint."""


class TooFewSurvivorsError(RunError):
    """A round has too few updates, because clients were lost with their processes."""


START_OVER = "--fresh starts this run over and moves its old files aside"
"""The advice where a run's files do not let it go on."""


class DamagedError(BadInputError):
    """A file of the results cannot be read. The message begins with the file."""


class StorageError(RunError):
    """A file of the results cannot be written. The message says where and why, and what the same command will do."""


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Turn an error of the client's code into a ClientError with `what`, which failed, and the traceback.

    A BadInputError becomes a ClientError with the same sentence and no traceback, that of a breakpoint with `what`
    before it. SystemExit counts as an error of the code.
    """
    try:
        yield
    except BreakpointError as error:
        raise ClientError(f"{what}: {error}") from error
    except BadInputError as error:
        raise ClientError(str(error)) from error
    except (Exception, SystemExit) as error:
        if hasattr(error, "ray_terminate_msg"):  # a SIGTERM came, on which Ray ends the process of an actor like this
            raise
        raise ClientError(f"{what}:\n{traceback.format_exc()}") from error
