"""Several runs of a sweep at once, each in a thread of its own; their actors share the work (cluster/dispatch.py)."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
NAME = "fedray-run"


def play_all(items: Sequence[T], play: Callable[[T], None], most: int, stop: Callable[[], None]) -> None:
    """Call `play` with each item in turn, in at most `most` threads; with one, in this.

    When this thread is interrupted, `stop` has the others raise KeyboardInterrupt wherever they wait, which they are
    given the time to do. An exception of `play` is raised here, and no further call is made.
    """
    if most == 1:
        for item in items:
            play(item)
        return
    with ThreadPoolExecutor(most, thread_name_prefix=NAME) as threads:
        try:
            left = {threads.submit(play, item) for item in items}
            while left:  # a signal that another thread was given wakes nobody here, hence the timeout
                ended, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
                for call in ended:
                    call.result()
        except BaseException:
            stop()
            threads.shutdown(cancel_futures=True)
            for thread in threading.enumerate():  # one that was being started when the interrupt came is unknown there
                if thread.name.startswith(NAME):
                    thread.join()
            raise
