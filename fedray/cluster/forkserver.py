"""The fork server: it imports torch once, and its children have torch at once and share its memory.

The driver starts it as `python -m fedray.cluster.forkserver FD` and talks to it over the socket FD. A request names a
function to call in a child, which sends back the answer. One such function is `nursery`: its child also imports Ray,
for one job of one Ray, and forks a worker for each request that shim.py sends. Neither the server nor a nursery ever
starts a thread or touches CUDA. Each ends when its socket to the driver closes, however the driver ended. If the driver
was killed, the server first ends what is left of the driver's own Ray, since some of it would go on for a minute.
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

from fedray.core.breakpoints import refuse_breakpoints

LARGEST_REQUEST = 1 << 20  # bytes; the kernel's own limit for one message is lower
IMPORTED_BY_WORKERS = ("pyarrow.json", "pydantic.v1", "pydantic.deprecated.class_validators")  # by Ray, at their start
SHIM_TIMEOUT = 10.0  # seconds that a connected shim may take to send its request
END_SECONDS = 20.0  # time for the killed processes of a driver's Ray to end


@dataclass(frozen=True)
class LocalRay:
    """A Ray that a driver started for itself, described by facts that fit no other Ray.

    Its session folder is in `root`, was made at `since` (seconds since 1970) or later, and its name ends with the
    driver's process id. `processes` are the ids of its processes with their creation times, empty while it starts.
    """

    root: str
    driver: int
    since: float
    processes: tuple[tuple[int, float], ...] = ()

    @property
    def folders(self) -> list[Path]:
        found = []
        for folder in Path(self.root).glob(f"session_*_{self.driver}"):
            with suppress(OSError):  # the folder was just removed
                if folder.stat().st_mtime >= self.since - 1:
                    found.append(folder)
        return found

    def end(self) -> None:
        """Kill those of its processes whose ids still belong to them, and remove its folders."""
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
    """The Ray that the fork server must end when the driver is gone; None once the driver has ended it itself."""
    return ray


def serve(driver: socket.socket) -> None:
    """Answer the driver's requests, each in a child, until the driver closes the socket."""
    guarded: LocalRay | None = None
    refuse_breakpoints()  # it has no terminal, nor have the workers that are forked from it
    preload("torch", "fedray.training.block", "fedray.models.build", "fedray.algorithms")
    while True:
        request, fds, _, _ = socket.recv_fds(driver, LARGEST_REQUEST, 1)
        if not request:
            if guarded:
                guarded.end()
            return
        with socket.socket(fileno=fds[0]) as reply:
            function, args, path = pickle.loads(request)
            if function is preload:
                preload(*args)
            elif function is guard:
                guarded = guard(*args)
            elif function is nursery and _threads() > 1:
                reply.sendall(pickle.dumps((False, RuntimeError(f"the fork server runs {_threads()} threads"))))
            elif os.fork() == 0:
                driver.close()
                sys.path += [folder for folder in path if folder not in sys.path]  # the driver's may have grown
                _call(reply, function, args)


def preload(*modules: str) -> None:
    """Import modules in the fork server itself, for all that is forked from then on; one that fails will fail there."""
    for module in modules:
        with suppress(Exception, SystemExit):
            import_module(module)
    gc.collect()
    gc.freeze()  # the collector never touches these objects again, so the memory that holds them stays shared


def named(function: str) -> Callable[..., Any]:
    """The function named "module:function", from its module, which is imported."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _call(reply: socket.socket, function: Callable[..., Any] | str, args: tuple[Any, ...]) -> NoReturn:
    """Call the function, send back its result or its exception, and end the child. `nursery` gets the socket, too."""
    try:
        function = named(function) if isinstance(function, str) else function
        if function is nursery:
            nursery(reply, *args)  # which ends this process, unless it fails
        sys.stdout = sys.stderr  # the user's code may print here, and the program's output may be lines of JSON
        answer = (True, function(*args))
    except Exception as error:
        error.add_note(traceback.format_exc())
        answer = (False, error)
    with suppress(OSError):  # the driver is gone and needs no answer
        reply.sendall(pickle.dumps(answer, protocol=5))
    os._exit(0)


def nursery(driver: socket.socket, path: str, env: Mapping[str, str]) -> None:
    """Fork a worker of the Ray job in `env` for each request at the unix socket `path`, until the driver is gone.

    Raises RuntimeError if threads run in this process: a lock that one of them holds would stay locked in the children.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(path)
        listener.listen(4096)
        os.environ.clear()
        os.environ.update(env)  # Ray reads its job on import
        os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # otherwise pyarrow starts one on import
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
        with suppress(OSError):  # the shim was killed or is stuck, or the fork failed; the next ones must be served
            request, fds, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
            child = os.fork() if request else None
        if child == 0:
            try:
                listener.close()
                driver.close()
                argv, env, folder = pickle.loads(request)
                _become_worker(argv, env, folder, fds)
            finally:
                os._exit(1)  # a child must never return into the nursery's loop
        for fd in fds:
            os.close(fd)
        if child:
            with suppress(OSError):
                connection.sendall(b"forked")


def _become_worker(argv: list[str], env: Mapping[str, str], folder: str, fds: list[int]) -> NoReturn:
    """Run Ray's own worker program with a worker's arguments, environment and standard streams."""
    import numpy as np
    import torch

    os.setsid()  # Ray kills the process group of a lost worker, so each worker needs its own
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    np.random.seed()  # otherwise all workers draw the same numbers; Python's own generator reseeds itself after a fork
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave no zombies then
    # Imported by its name, since the driver's pickled functions refer to it and not to __main__.
    from fedray.cluster import forkserver

    forkserver.serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # without the exit handlers of modules that were imported for the children
