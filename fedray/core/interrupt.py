"""Ctrl-C and SIGTERM in fedray's programs: the first has the rounds in play come to their end, a second stops at once.
A stdout that cannot be written any more, as in `| head -1` or on a full disk, is like a first.

`run()` called from Python installs nothing here: what a signal does is then up to its caller.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType
from typing import Any, TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """What signals asked of the runs of this process; nothing ever, unless somebody has it `listen`.

    A run says in `rounds` which round it is playing, or that it is `starting`, and looks after each round whether it
    was `asked` to end there. While none is playing, at the start or the end of a program, the first signal stops at
    once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.deaf = False
        self.rounds: dict[str, int] = {}
        self.starting: set[str] = set()
        self.tell: Callable[[str], None] = print
        self.sentences: SimpleQueue[str] = SimpleQueue()

    def listen(self) -> None:
        """Handle both signals from now on, but for one that is ignored here, as in a shell's background jobs."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.handle)
        threading.Thread(target=self.say, name="interrupt", daemon=True).start()

    def end(self) -> None:
        """Ignore both from now on: Python puts back what would kill the process while it goes."""
        for number in SIGNALS:
            if signal.getsignal(number) == self.handle:
                signal.signal(number, signal.SIG_IGN)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal came. Raises KeyboardInterrupt once at most, so that nothing disturbs what is saved after it."""
        if self.deaf or (self.asked and not self.rounds and not self.starting):
            return
        if self.rounds and not self.asked:
            self.asked = True
            # Said by another thread: this one may be in the middle of drawing a bar. Only `put` may be called here.
            self.sentences.put(f"finishing {name_rounds(list(self.rounds.values()))}; once more to stop at once")
            return
        self.deaf = True
        raise KeyboardInterrupt

    @contextmanager
    def expecting(self, run: str) -> Iterator[None]:
        """For the length of a `with` the run starts, again and again if need be, until it `left` for good."""
        self.starting.add(run)
        try:
            yield
        finally:
            self.left(run)

    def left(self, run: str) -> None:
        """The run plays no rounds any more."""
        self.rounds.pop(run, None)
        self.starting.discard(run)

    def say(self) -> None:
        while True:
            sentence = self.sentences.get()
            self.tell(sentence)


class Stdout:
    """A program's stdout. Where it cannot be written any more, what is written is lost, and the runs are asked to end.

    Why is said on stderr; of a pipe that nobody reads there is nothing to say.
    """

    def __init__(self, stream: TextIO, interrupt: Interrupt):
        self.stream, self.interrupt = stream, interrupt
        self.failed = False
        """Whether it failed, other than by a pipe that nobody reads."""

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self.give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> None:
        self.interrupt.asked = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())  # also for what is in its buffer, which Python writes at the end
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            self.failed = True
            with suppress(OSError):
                why = error.strerror or error
                print(f"fedray: stdout cannot be written ({why}), so that no further round is begun", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def name_rounds(rounds: list[int]) -> str:
    return f"round {rounds[0]}" if len(rounds) == 1 else f"the rounds of {len(rounds)} runs"


@contextmanager
def deferred() -> Iterator[None]:
    """Have a signal wait for the end of a `with` in which processes are forked; a second one stops at once.

    What a handler raises while Python forks is lost: it runs in one of the hooks around the fork, whose exceptions are
    ignored. So it is told what came when all is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # by which Ray's handler of SIGTERM, below Python's, would abort the process in three seconds
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
