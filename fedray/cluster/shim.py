"""The program that Ray starts in place of a worker: it asks the nursery to fork one, or becomes one itself.

Its first argument is the path of the nursery's socket, the others are the worker's. It runs with `python -S -E` and the
standard library alone, to start fast: Ray starts it once for each actor.
"""

import os
import pickle
import socket
import sys


def become_worker(nursery: str, argv: list[str]) -> None:
    """Return once the nursery at this path has forked a worker with these arguments; otherwise be that worker."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(60)
            connection.connect(nursery)
            request = pickle.dumps((argv, dict(os.environ), os.getcwd()))  # noqa: PTH109  pathlib takes a while to import
            socket.send_fds(connection, [request], [0, 1, 2])
            forked = connection.recv(16) == b"forked"
    except OSError:
        forked = False
    if not forked:
        os.execv(sys.executable, [sys.executable, *argv])


if __name__ == "__main__":
    become_worker(sys.argv[1], sys.argv[2:])
