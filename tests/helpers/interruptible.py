"""Programs that SIGINT interrupts, also where the tests ignore it, as all does that a script starts with `&`."""

import signal


def heed_sigterm() -> None:
    """As `heed_sigint`, of SIGTERM: a shell cannot trap what was ignored or blocked when it began."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def heed_sigint() -> None:
    """For `preexec_fn`: a process inherits what its parent ignores."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
