"""How a call that runs in an actor learns that nobody wants it any more.

Ray never interrupts the call of an actor. And `ray.cancel` on a call that its driver has not sent yet leaves a gap in
the order of the actor's calls (Ray 2.60): every later one then waits for ever. So the driver leaves a note with the
cluster's store of small values, and a call that trains looks for it between its steps.
"""

import time
from collections.abc import Callable
from contextlib import suppress

import ray
from ray.experimental import internal_kv

from fedray.core.errors import ClientError

LOOK_SECONDS, LONGEST = 0.2, 0.4  # a call looks first after the one and then after the other; a short one never does


def ask_to_stop(errand: str) -> None:
    """Ask the calls of an errand to end at their next step."""
    with suppress(Exception):  # a store that does not answer: the calls go on to their end
        internal_kv._internal_kv_put(errand, b"", namespace=b"fedray")


def forget(errand: str) -> None:
    """None of the errand's calls runs any more."""
    with suppress(Exception):  # with its store the note is gone
        internal_kv._internal_kv_del(errand, namespace=b"fedray")


def was_asked(errand: str) -> bool:
    """Whether the errand's calls were asked to end; a store that does not answer has asked nobody."""
    try:
        return ray.is_initialized() and bool(internal_kv._internal_kv_exists(errand, namespace=b"fedray"))
    except Exception:
        return False


def heeding(errand: str) -> Callable[[], None]:
    """A function for a call of the errand to call between its steps. It raises ClientError once the call is to end."""
    wait = LOOK_SECONDS
    due = time.monotonic() + wait

    def heed() -> None:
        nonlocal due, wait
        if time.monotonic() > due:
            wait = LONGEST
            due = time.monotonic() + wait
            if was_asked(errand):
                raise ClientError("the driver does not want this call any more")

    return heed
