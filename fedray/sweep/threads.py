"""Several runs of a sweep at once, each in a thread of its own; their actors share the work (cluster/dispatch.py)."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
NAME = "fedray-run"


def play_all(items: Sequence[T], play: Callable[[T], None], most: int, stop: Callable[[], None]) -> None:
    """Call `play` with each item in turn, in at most `most` threads. If `most` is 1, all calls are in this thread.

    An exception of `play` is raised here, and no further call begins. `stop` is called then, and when this thread is
    interrupted: it makes the other threads raise KeyboardInterrupt where they wait. This function waits for their ends.
    """
    if most == 1:
        for item in items:
            play(item)
        return
    with ThreadPoolExecutor(most, thread_name_prefix=NAME) as threads:
        try:
            left = {threads.submit(play, item) for item in items}
            while left:  # the timeout: a signal that another thread receives does not end a wait in this one
                ended, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
                for call in ended:
                    call.result()
        except BaseException:
            stop()
            threads.shutdown(cancel_futures=True)
            for thread in threading.enumerate():  # the executor does not know a thread whose start was interrupted
                if thread.name.startswith(NAME):
                    thread.join()
            raise
