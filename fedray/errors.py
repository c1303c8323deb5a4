"""The two things that go wrong: what the user gave us, and what the user's code does inside a client."""


class BadInputError(ValueError):
    """The user gave something that cannot be run; the message is one sentence that a stranger understands (exit status 2)."""


class ClientError(RuntimeError):
    """Code that a client runs (model, loss, algorithm) raised; the message names client and round and holds its traceback."""
