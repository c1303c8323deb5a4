"""What Ray starts in place of a worker, with the nursery's socket: have a worker forked there, or else become one.

Runs with `python -S -E` and the standard library alone, since it is started once for every actor.
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
