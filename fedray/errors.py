"""What goes wrong: what the user gave us, what the user's code does inside a client, and processes that die."""


class BadInputError(ValueError):
    """The user gave something that cannot be run; the message is one sentence for a stranger (exit status 2)."""


class ClientError(RuntimeError):
    """Code that a client runs (model, loss, algorithm) raised; the message has client, round and traceback."""


class LostActorError(RuntimeError):
    """The process of an actor died again and again under the same call; the message says which error Ray gave last."""


class BusyError(BadInputError):
    """Somebody else is at work on the same results."""
