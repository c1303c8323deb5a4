"""The reason of a failure on one line. The whole one, with its traceback, is on stderr and in the table `runs`."""

TRACEBACK = "Traceback (most recent call last):"
LONGEST = 160  # characters


def gist(why: str) -> str:
    """The first line of a reason, and the error that the last traceback in it ends with."""
    said, *tracebacks = why.split(TRACEBACK)
    first = [line.strip().rstrip(":") for line in said.splitlines() if line.strip()][:1]
    after = tracebacks[-1].splitlines() if tracebacks else []
    error = [line.strip() for line in after if line[:1].strip()][:1]  # the lines of the stack are indented
    text = ": ".join([*first, *error])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
