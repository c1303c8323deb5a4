"""A notebook's cell as the place that a run prints to: one display, which is updated."""

import threading
import time
from typing import Any

DRAWN_SECONDS = 0.1  # the least time between two updates by the live line alone
BAR = 24  # columns


class Cell:
    """A file for a console: what is written there is one display of the cell that is executed.

    The lines that were written stay. Below them is a live line.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.text = self.live = ""
        self.execution: int | None = None  # the number of the cell that the display is in
        self.display: Any = None
        self.drawn_at = 0.0

    def write(self, text: str) -> int:
        from IPython import get_ipython

        with self.lock:
            if self.execution != (now := get_ipython().execution_count):
                self.text, self.display, self.execution = "", None, now
            self.text += text
        return len(text)

    def flush(self) -> None:
        with self.lock:
            self.draw()

    def show(self, live: str) -> None:
        """Replace the live line; an empty one takes it off."""
        with self.lock:
            self.live = live
            if not live or time.monotonic() > self.drawn_at + DRAWN_SECONDS:
                self.draw()

    def draw(self) -> None:
        from IPython.display import display

        shown = {"text/plain": (self.text + self.live).rstrip("\n")}
        self.drawn_at = time.monotonic()
        if self.display is None:
            self.display = display(shown, raw=True, display_id=True)
        else:
            self.display.update(shown, raw=True)


def bar(done: int, of: int) -> str:
    """A bar in characters, as long on the screen whatever is done."""
    full = BAR * done // of
    return "━" * full + "┈" * (BAR - full)
