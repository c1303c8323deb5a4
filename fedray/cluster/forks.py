"""The driver's side of the fork server: functions called where torch is imported, and actors forked from there.

The fork server is this process's only one, started when it is first asked for, and ends with it.
"""

import atexit
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fedray.cluster import forkserver

READY_SECONDS = 60.0  # for a nursery to import Ray
SHIM = Path(__file__).with_name("shim.py")


class Answer:
    """What a function gives that is being called in a child of the fork server."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def result(self) -> Any:
        """Wait for it; raises what the function raised, or RuntimeError where its process came to grief."""
        with self.connection, self.connection.makefile("rb") as file:
            try:
                fine, value = pickle.load(file)
            except EOFError:
                raise RuntimeError("the process that has torch imported ended without an answer") from None
        if not fine:
            raise value
        return value


class ForkServer:
    """A process that has torch imported and that children are forked from; see forkserver.py."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # NumPy's library would start threads when it is imported
        }
        command = [sys.executable, "-m", "fedray.cluster.forkserver", str(theirs.fileno())]
        with theirs:
            # A session of its own, so that Ctrl-C in a terminal does not reach it: it ends with the driver, after Ray.
            self.process = subprocess.Popen(
                command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )

    def preload(self, modules: Sequence[str]) -> None:
        """Import modules there, for all that is forked from then on."""
        if modules:
            self.ask(forkserver.preload, *modules).connection.close()

    def ask(self, function: Callable[..., Any] | str, *args: Any) -> Answer:
        """Have an importable function called, or one named "module:function"; its answer can be waited for later."""
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.socket, [pickle.dumps((function, args))], [theirs.fileno()])
        return Answer(mine)

    def close(self) -> None:
        """End it; the children that it has left end by themselves."""
        self.socket.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def called_by_name(server: ForkServer | None, name: str, *args: Any) -> Callable[[], Any]:
    """Have "module:function" called where torch is imported; what is returned waits for its answer.

    The driver so calls what it never imports. Without a server the function is called here, when its answer is wanted.
    """
    if server is None:
        return lambda: forkserver.named(name)(*args)
    return server.ask(name, *args).result


class Nursery:
    """Where the workers of one Ray job are forked; until `close`, or until this process ends."""

    def __init__(self, server: ForkServer, job: str, raylet: int):
        self.path = f"{tempfile.mkdtemp(prefix='fedray-')}/nursery"
        env = {**os.environ, "RAY_JOB_ID": job, "RAY_RAYLET_PID": str(raylet)}
        self.connection = server.ask(forkserver.nursery, self.path, env).connection

    @property
    def runtime_env(self) -> dict[str, str]:
        """What an actor's options say to have its process forked here."""
        return {"py_executable": shlex.join([sys.executable, "-S", "-E", str(SHIM), self.path])}

    def trouble(self) -> str:
        """Why nothing can be forked here, once that is known; empty when all is well."""
        self.connection.settimeout(READY_SECONDS)
        try:
            fine, error = pickle.loads(self.connection.recv(1 << 16))
        except (EOFError, OSError, pickle.UnpicklingError) as failure:
            fine, error = False, failure
        return "" if fine else str(error)

    def close(self) -> None:
        """Fork no more; workers that there are live as long as their Ray."""
        self.connection.close()
        shutil.rmtree(Path(self.path).parent, ignore_errors=True)


class Guard:
    """Sees that the local Ray that this process starts now ends with it, even when this process is killed.

    Ray's own processes see to that, too, but for two agents, which take a minute to notice; and its folder stays.
    """

    def __init__(self, server: ForkServer | None, root: str):
        """`root` is the folder of Ray's session folders; without a `server` nothing is guarded."""
        self.server = server
        self.ray = forkserver.LocalRay(root, os.getpid(), time.time())
        self.tell(self.ray)

    def started(self) -> None:
        """Ray is up: its processes are those that this one started with its folder, and what these have started."""
        found = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if any(str(folder) in word for folder in self.ray.folders for word in child.cmdline()):
                    found += [(process.pid, process.create_time()) for process in (child, *child.children(True))]
        self.ray = replace(self.ray, processes=tuple(found))
        self.tell(self.ray)

    def end(self) -> None:
        """Ray was interrupted while it started, so that nobody else would shut it down."""
        self.started()
        self.ray.end()
        self.close()

    def close(self) -> None:
        """Ray was shut down."""
        self.tell(None)

    def tell(self, ray: forkserver.LocalRay | None) -> None:
        if self.server:
            with suppress(OSError):  # it has died
                self.server.ask(forkserver.guard, ray).connection.close()


_servers: list[ForkServer] = []
_starting = threading.Lock()


def fork_server() -> ForkServer | None:
    """This process's fork server, a new one where the last has died; None where forking is not known to work."""
    if sys.platform != "linux":
        return None
    with _starting:
        if not _servers or _servers[-1].process.poll() is not None:
            server = ForkServer()
            atexit.register(server.close)
            _servers[:] = [server]
        return _servers[0]
