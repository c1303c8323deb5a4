"""The program that Ray starts in place of a worker: it asks the nursery to fork one, or becomes one itself.

Its first argument is the path of the nursery's socket, the others are the worker's. It runs with `python -S -E` and the
standard library alone, to start fast: Ray starts it once for each actor.
"""

import os
import pickle
import socket
import sys

path, *argv = sys.argv[1:]
try:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nursery:
        nursery.settimeout(60)
        nursery.connect(path)
        request = pickle.dumps((argv, dict(os.environ), os.getcwd()))  # noqa: PTH109  pathlib takes a while to import
        socket.send_fds(nursery, [request], [0, 1, 2])
        forked = nursery.recv(16) == b"forked"
except OSError:
    forked = False
if not forked:
    os.execv(sys.executable, [sys.executable, *argv])
