"""Ctrl-C and SIGTERM in fedray's programs. The first signal lets the rounds in play end; a second stops at once.

A stdout that cannot be written any more, as in `| head -1` or on a full disk, counts as a first signal. `run()` called
from Python installs no handlers, since its caller decides what a signal does; but in a notebook a cell's interrupt is a
first signal.
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
    """The requests of signals to the runs of this process. There are none before `listen` is called.

    A run records in `rounds` which round it plays, or in `starting` that it starts. After each round it checks whether
    it was `asked` to end. While no run plays, at the start or the end of a program, the first signal stops at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.deaf = False
        self.rounds: dict[str, int] = {}
        self.starting: set[str] = set()
        self.tell: Callable[[str], None] = print
        self.sentences: SimpleQueue[str] = SimpleQueue()

    def listen(self) -> None:
        """Handle both signals from now on, except those that the process ignores, as in a shell's background jobs."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.handle)
        threading.Thread(target=self.say, name="interrupt", daemon=True).start()

    def end(self) -> None:
        """Ignore both signals from now on. At exit Python restores default handlers, which would kill the process."""
        for number in SIGNALS:
            if signal.getsignal(number) == self.handle:
                signal.signal(number, signal.SIG_IGN)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. It raises KeyboardInterrupt at most once, so that a second does not disturb the saving."""
        if self.deaf or (self.asked and not self.rounds and not self.starting):
            return
        if self.rounds and not self.asked:
            self.asked = True
            # Another thread prints it, because this one may be drawing a bar. Only `put` may be called here.
            self.sentences.put(f"finishing {name_rounds(list(self.rounds.values()))}; once more to stop at once")
            return
        self.deaf = True
        raise KeyboardInterrupt

    @contextmanager
    def expecting(self, run: str) -> Iterator[None]:
        """Mark the run as starting until it has `left`. Within the block it may start again and again."""
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
        while sentence := self.sentences.get():
            self.tell(sentence)


@contextmanager
def interrupted_by_the_kernel(tell: Callable[[str], None]) -> Iterator[Interrupt]:
    """Handle a notebook's interrupts of the cell, which are SIGINTs, for the length of a `with`.

    In a thread there is nothing to handle: Python gives signals to the main one.
    """
    interrupt = Interrupt()
    interrupt.tell = tell
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt.handle)
    speaker = threading.Thread(target=interrupt.say, name="interrupt", daemon=True)
    speaker.start()
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
        interrupt.sentences.put("")
        speaker.join()


class Stdout:
    """A program's stdout. When it cannot be written any more, its text is lost, and the runs are asked to end.

    The reason goes to stderr, except for a pipe that nobody reads.
    """

    def __init__(self, stream: TextIO, interrupt: Interrupt):
        self.stream, self.interrupt = stream, interrupt
        self.failed = False
        """Whether stdout failed for a reason other than a pipe that nobody reads."""

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
        os.dup2(nowhere, self.stream.fileno())  # also for the text in its buffer, which Python writes at exit
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            self.failed = True
            with suppress(OSError):
                why = error.strerror or error
                print(f"fedray: stdout cannot be written ({why}), so no further round begins", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def name_rounds(rounds: list[int]) -> str:
    return f"round {rounds[0]}" if len(rounds) == 1 else f"the rounds of {len(rounds)} runs"


@contextmanager
def deferred() -> Iterator[None]:
    """Delay a signal until the end of a block in which processes are forked. A second signal stops at once.

    An exception of a handler is lost while Python forks: the handler runs in a hook around the fork, and exceptions of
    hooks are ignored. So the signal is raised again after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # Ray's C handler of SIGTERM sets an alarm that would abort the process after three seconds
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
