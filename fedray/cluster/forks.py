"""The driver's side of the fork server, a process that has torch imported: it calls functions and forks actors.

A process has one fork server at most. It is started on first use and ends with the process.
"""

import atexit
import errno
import os
import pickle
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fedray.cluster import forkserver

READY_SECONDS = 60.0  # time for a nursery to import Ray
SHIM = Path(__file__).with_name("shim.py")


class Answer:
    """The pending answer of a function that is called in a child of the fork server."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        # As when a run is refused before it reads the answer.
        weakref.finalize(self, connection.close).atexit = False

    def result(self) -> Any:
        """Wait for the result. Raises what the function raised, or RuntimeError if its process ended early."""
        with self.connection, self.connection.makefile("rb") as file:
            try:
                fine, value = pickle.load(file)
            except EOFError:
                raise RuntimeError("the process that has torch imported ended without an answer") from None
        if not fine:
            raise value
        return value


class ForkServer:
    """The process that has torch imported and forks children; see forkserver.py."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(searched()),
            "OPENBLAS_NUM_THREADS": "1",  # otherwise NumPy's OpenBLAS starts threads on import
        }
        command = [sys.executable, "-m", "fedray.cluster.forkserver", str(theirs.fileno())]
        with theirs:
            # In a session of its own Ctrl-C in a terminal does not reach it. It ends with the driver, after Ray.
            self.process = subprocess.Popen(
                command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )

    def preload(self, modules: Sequence[str]) -> None:
        """Import modules in the fork server, for all processes that it forks from then on."""
        if modules:
            self.ask(forkserver.preload, *modules).connection.close()

    def ask(self, function: Callable[..., Any] | str, *args: Any) -> Answer:
        """Call an importable function, or the one named "module:function", in a child; the answer comes later."""
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.socket, [pickle.dumps((function, args, searched()))], [theirs.fileno()])
        return Answer(mine)

    def close(self) -> None:
        """End the fork server; its remaining children end by themselves."""
        self.socket.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def searched() -> list[str]:
    """The folders in which this process searches for modules."""
    return [folder or str(Path.cwd()) for folder in sys.path]


def called_by_name(server: ForkServer | None, name: str, *args: Any) -> Callable[[], Any]:
    """Call "module:function" in a process that has torch imported. The returned function waits for the result.

    The driver calls functions in this way that it never imports. Without a server, or with arguments that are too long
    for it, the function is called in this process, when the result is asked for. The server itself unpickles the
    arguments, so that they must not be of the user's classes; `packed` makes bytes of those.
    """
    if server:
        try:
            return server.ask(name, *args).result
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
    return lambda: forkserver.named(name)(*args)


def packed(*objects: Any) -> bytes:
    """Objects of the user's classes as bytes for pickle.loads, also of classes that no module has."""
    from ray import cloudpickle

    return bytes(cloudpickle.dumps(objects, protocol=5))


class Nursery:
    """The process that forks the workers of one Ray job, until `close` or the end of this process."""

    def __init__(self, server: ForkServer, job: str, raylet: int):
        self.path = f"{tempfile.mkdtemp(prefix='fedray-')}/nursery"
        env = {**os.environ, "RAY_JOB_ID": job, "RAY_RAYLET_PID": str(raylet)}
        self.answer = server.ask(forkserver.nursery, self.path, env)
        self.connection = self.answer.connection

    @property
    def runtime_env(self) -> dict[str, str]:
        """The runtime_env of an actor whose process is to be forked here."""
        return {"py_executable": shlex.join([sys.executable, "-S", "-E", str(SHIM), self.path])}

    def trouble(self) -> str:
        """Wait until the nursery is ready and return the reason why it cannot fork workers; empty if it can."""
        self.connection.settimeout(READY_SECONDS)
        try:
            fine, error = pickle.loads(self.connection.recv(1 << 16))
        except (EOFError, OSError, pickle.UnpicklingError) as failure:
            fine, error = False, failure
        return "" if fine else str(error)

    def close(self) -> None:
        """Fork no more workers. Those that exist live as long as their Ray."""
        self.connection.close()
        shutil.rmtree(Path(self.path).parent, ignore_errors=True)


class Guard:
    """Ends the local Ray that this process starts now together with it, even if this process is killed.

    Ray's own processes end then by themselves, but two agents take a minute to notice, and Ray's folder stays.
    """

    def __init__(self, server: ForkServer | None, root: str):
        """`root` is the folder of Ray's session folders. Without a `server` nothing is guarded."""
        self.server = server
        self.ray = forkserver.LocalRay(root, os.getpid(), time.time())
        self.tell(self.ray)

    def started(self) -> None:
        """Note the processes of Ray, which is up: children with its folder in their command line, and all of theirs."""
        found = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if any(str(folder) in word for folder in self.ray.folders for word in child.cmdline()):
                    found += [(process.pid, process.create_time()) for process in (child, *child.children(True))]
        self.ray = replace(self.ray, processes=tuple(found))
        self.tell(self.ray)

    def end(self) -> None:
        """End a Ray whose start was interrupted, which `ray.shutdown` may not know."""
        self.started()
        self.ray.end()
        self.close()

    def close(self) -> None:
        """Guard nothing more, after Ray was shut down."""
        self.tell(None)

    def tell(self, ray: forkserver.LocalRay | None) -> None:
        if self.server:
            with suppress(OSError):  # it has died
                self.server.ask(forkserver.guard, ray).connection.close()


_servers: list[ForkServer] = []
_starting = threading.Lock()


def fork_server() -> ForkServer | None:
    """The fork server of this process, a new one if the last has died; None where forking is not known to work."""
    if sys.platform != "linux":
        return None
    with _starting:
        if not _servers or _servers[-1].process.poll() is not None:
            server = ForkServer()
            atexit.register(server.close)
            _servers[:] = [server]
        return _servers[0]
