"""The process that others are forked from: it imports torch once, and every child has it at once and shares its memory.

The driver starts it as `python -m fedray.cluster.forkserver FD` and talks to it over that socket. A request is either a
function to call in a child, whose answer comes back, or the wish for a nursery: a child that has Ray imported, too, for
one job of one Ray, and becomes a worker for each request that shim.py sends. Neither ever starts a thread or touches
CUDA, and each ends when its socket to the driver closes, however the driver ended. Where the driver was killed, the
server first ends what is left of the driver's own Ray, some of which would go on for a minute.
"""

import gc
import os
import pickle
import runpy
import select
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

LARGEST_REQUEST = 1 << 20  # bytes; the kernel's own limit for one message is lower
IMPORTED_BY_WORKERS = ("pyarrow.json", "pydantic.v1", "pydantic.deprecated.class_validators")  # by Ray, when one starts
SHIM_TIMEOUT = 10.0  # seconds for a shim that has connected to say what it wants
END_SECONDS = 20.0  # for what a driver's Ray was to have ended


@dataclass(frozen=True)
class LocalRay:
    """A Ray that its driver started for itself, by what nobody else's has.

    Its session folder is in `root`, was made at `since` (seconds since 1970) or later, and its name ends with the
    driver's process id. `processes` are ids and when each was created; none while the Ray is starting.
    """

    root: str
    driver: int
    since: float
    processes: tuple[tuple[int, float], ...] = ()

    @property
    def folders(self) -> list[Path]:
        found = []
        for folder in Path(self.root).glob(f"session_*_{self.driver}"):
            with suppress(OSError):  # it has just gone
                if folder.stat().st_mtime >= self.since - 1:
                    found.append(folder)
        return found

    def end(self) -> None:
        """Kill its processes, as far as they are the same still, and remove its folder."""
        import psutil

        left = []
        for pid, created in self.processes:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if abs(process.create_time() - created) < 1:
                    process.kill()
                    left.append(process)
        psutil.wait_procs(left, timeout=END_SECONDS)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def guard(ray: LocalRay | None) -> LocalRay | None:
    """What the fork server is to end when the driver has gone; None once the driver has done that itself."""
    return ray


def serve(driver: socket.socket) -> None:
    """Answer the driver's requests, each in a child of its own, until it closes the socket."""
    guarded: LocalRay | None = None
    preload("torch", "fedray.training.block", "fedray.models.build", "fedray.algorithms")
    while True:
        request, fds, _, _ = socket.recv_fds(driver, LARGEST_REQUEST, 1)
        if not request:
            if guarded:
                guarded.end()
            return
        with socket.socket(fileno=fds[0]) as reply:
            function, args = pickle.loads(request)
            if function is preload:
                preload(*args)
            elif function is guard:
                guarded = guard(*args)
            elif function is nursery and _threads() > 1:
                reply.sendall(pickle.dumps((False, RuntimeError(f"the fork server runs {_threads()} threads"))))
            elif os.fork() == 0:
                driver.close()
                _call(reply, function, args)


def preload(*modules: str) -> None:
    """Import modules in the fork server itself, for all that is forked from then on; one that fails will fail there."""
    for module in modules:
        with suppress(Exception, SystemExit):
            import_module(module)
    gc.collect()
    gc.freeze()  # the collector never touches these objects again, so the memory that holds them stays shared


def named(function: str) -> Callable[..., Any]:
    """The function of "module:function", its module imported."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _call(reply: socket.socket, function: Callable[..., Any] | str, args: tuple[Any, ...]) -> NoReturn:
    """Call the function and send back what it gives or raises; a nursery has the socket itself."""
    try:
        function = named(function) if isinstance(function, str) else function
        answer = (True, function(reply, *args) if function is nursery else function(*args))
    except Exception as error:
        error.add_note(traceback.format_exc())
        answer = (False, error)
    with suppress(OSError):  # a driver that has gone wants no answer
        reply.sendall(pickle.dumps(answer, protocol=5))
    os._exit(0)


def nursery(driver: socket.socket, path: str, env: Mapping[str, str]) -> None:
    """Fork Ray's workers for the job that `env` names, asked for at the unix socket `path`, until the driver is gone.

    Raises RuntimeError where threads run in here: what one of them has locked would stay locked in the children.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(path)
        listener.listen(4096)
        os.environ.clear()
        os.environ.update(env)  # Ray reads its job when it is imported
        os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow would start one when it is imported
        preload("ray._private.workers.default_worker", "fedray.cluster.actor", *IMPORTED_BY_WORKERS)
        if _threads() > 1:
            raise RuntimeError(f"importing Ray has started {_threads() - 1} threads")
        driver.sendall(pickle.dumps((True, None)))
        while True:
            ready, _, _ = select.select([listener, driver], [], [])
            if driver in ready:
                break
            _fork_worker(listener, driver)
    finally:
        listener.close()
        Path(path).unlink(missing_ok=True)
        with suppress(OSError):
            Path(path).parent.rmdir()
    os._exit(0)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _fork_worker(listener: socket.socket, driver: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(SHIM_TIMEOUT)
        request, child = b"", None
        fds: list[int] = []
        with suppress(OSError):  # the shim was killed or is stuck, or no process can be made: there are others to serve
            request, fds, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
            child = os.fork() if request else None
        if child == 0:
            try:
                listener.close()
                driver.close()
                argv, env, folder = pickle.loads(request)
                _become_worker(argv, env, folder, fds)
            finally:
                os._exit(1)  # never back into the nursery's own loop
        for fd in fds:
            os.close(fd)
        if child:
            with suppress(OSError):
                connection.sendall(b"forked")


def _become_worker(argv: list[str], env: Mapping[str, str], folder: str, fds: list[int]) -> NoReturn:
    """Run Ray's own worker program with a worker's arguments, environment and standard streams."""
    import numpy as np
    import torch

    os.setsid()  # when a worker is lost Ray ends its process group, which must be its own
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    np.random.seed()  # or every worker would draw the same; Python's own generator sees to itself
    torch.seed()
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need nobody to wait for them
    # Under its importable name, so that the driver's pickled functions are this module's own.
    from fedray.cluster import forkserver

    forkserver.serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # what was imported for others needs no farewell
