"""Programs that SIGINT interrupts, also where the tests ignore it, as all does that a script starts with `&`."""

import signal


def heed_sigint() -> None:
    """For `preexec_fn`: a process inherits what its parent ignores."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
