"""What goes wrong: what the user gave us, what the user's code does inside a client, and processes that die."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class BadInputError(ValueError):
    """The user gave something that cannot be run; the message is one sentence for a stranger (exit status 2)."""


class RunError(RuntimeError):
    """A run cannot go on; the message says why to its user (exit status 1)."""


class ClientError(RunError):
    """Code that a client runs (model, loss, algorithm) raised; the message has client, round and traceback."""


class LostActorError(RunError):
    """The process of an actor died again and again under the same call; the message says which error Ray gave last."""


class BusyError(BadInputError):
    """Somebody else is at work on the same results."""


class LostStateError(RunError):
    """What clients remember was lost with a node; the run can go on from its last checkpoint."""


class TooFewSurvivorsError(RunError):
    """So many clients were lost with their processes that a round has too few updates."""


START_OVER = "--fresh starts this run over and moves what there is of it aside"
"""The way out where what a run left cannot be gone on from."""


class DamagedError(BadInputError):
    """A file of the results cannot be read; the sentence begins with which."""


class StorageError(RunError):
    """A file of the results cannot be written; the message says where and why, and what the same command will do."""


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Whatever the client's code raises comes out as a ClientError: what failed, and the traceback.

    What is wrong with what the user gave comes out as the sentence that it is. SystemExit is an error like others.
    """
    try:
        yield
    except BadInputError as error:
        raise ClientError(str(error)) from error
    except (Exception, SystemExit) as error:
        if hasattr(error, "ray_terminate_msg"):  # a SIGTERM came, on which Ray ends the process of an actor like this
            raise
        raise ClientError(f"{what}:\n{traceback.format_exc()}") from error
