"""The start of Ray: quietly, once for all runs of a process. It is always shut down again."""

import contextlib
import functools
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.state import available_resources_per_node

from fedray.cluster.capacity import Capacity, capacity_of, store_here
from fedray.cluster.forks import Guard, Nursery, fork_server
from fedray.cluster.gpus import memory_of_each
from fedray.cluster.joining import find
from fedray.cluster.needs import will_fork
from fedray.cluster.pool import Pool
from fedray.cluster.printed import Printed, silent_raylets
from fedray.cluster.settings import Cluster
from fedray.cluster.versions import check_nodes
from fedray.core.errors import BadInputError
from fedray.core.interrupt import deferred
from fedray.core.limits import available_memory, cores, describe_limits

NODE_SECONDS = 120.0  # time for each node of a joined cluster to start a process and report its software

log = logging.getLogger(__name__)

SETUP_WORKER = Path(__file__).with_name("setup_worker.py")
OF_OWN_RAY = ("cpus", "gpus", "object_store")


@dataclass(frozen=True)
class Session:
    """A connection to Ray that several runs may share: the capacity that they can reserve, and the warm actors."""

    look: Callable[[Pool | None], Capacity]
    pool: Pool

    @property
    def capacity(self) -> Capacity:
        """The capacity now, including the part that these runs' own actors hold."""
        return self.look(self.pool)

    @property
    def is_up(self) -> bool:
        """Whether the connection is there still. `ray.shutdown()` ends it."""
        return ray.is_initialized()


class Nodes:
    """The nodes of a Ray, which may come and go, with the least that other jobs were seen to hold of each."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, float]] = {}

    def capacity(self, pool: Pool | None = None) -> Capacity:
        """The capacity of the nodes that are alive, without the shares of other jobs, but with those of this pool."""
        nodes, free = [node for node in ray.nodes() if node["Alive"]], available_resources_per_node()
        # An actor that is starting may already hold a share of some node, but it is unknown which.
        settled = pool is None or not any(slot.starting is not None and not slot.where for slot in pool.slots)
        found = []
        for node in nodes:
            name, has = node["NodeID"], node["Resources"]
            left, own = free.get(name, has), reserved(pool, name) if pool else {}
            held = {
                kind: max(0.0, has[kind] - left.get(kind, 0.0) - own.get(kind, 0.0)) if settled else 0.0
                for kind in ("CPU", "GPU")
                if kind in has
            }
            # Less held than before may be true. More held may be our own actors: so the least is kept. A node that has
            # just joined seems to be full.
            held = {kind: min(number, self.held.get(name, held)[kind]) for kind, number in held.items()}
            if settled:
                self.held[name] = held
            found.append((has, {kind: has[kind] - number for kind, number in held.items()}))
        return capacity_of(found, sum(has.get("memory", 0.0) for has, _ in found if has.get("CPU")))


def reserved(pool: Pool, node: str) -> dict[str, float]:
    """The CPUs and GPUs that the actors of a pool hold on a node."""
    here = sum(slot.where.get("node") == node and not slot.gone for slot in pool.slots)
    num_cpus, num_gpus = pool.shape or (0.0, 0.0)
    return {"CPU": here * num_cpus, "GPU": here * num_gpus}


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep `ray.init` from replacing this process's handling of SIGTERM and of breakpoints."""
    utils: Any = ray._private.utils
    debugger = os.environ.get("PYTHONBREAKPOINT")
    setter, handler = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = setter
        os.environ.pop("PYTHONBREAKPOINT", None)
        if debugger is not None:
            os.environ["PYTHONBREAKPOINT"] = debugger
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.alarm(0)  # if SIGTERM came meanwhile, Ray's C++ handler would abort the process in three seconds
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def lean(forks: bool, shows: bool) -> Iterator[None]:
    """Start no process of a local Ray that nobody here asks: the dashboard, its autoscaler, the reader of its logs.

    Each would import Ray, as the driver waits. The reader of logs is for what is to be shown. Forked workers are set up
    by setup_worker.py instead of Ray's.
    """
    params: Any = ray._private.parameter.RayParams
    node: Any = ray._private.node.Node
    init, start_api_server = params.__init__, node.start_api_server
    given: dict[str, Any] = {"no_monitor": True, "include_log_monitor": shows}
    if forks:
        given["setup_worker_path"] = str(SETUP_WORKER)
    params.__init__ = functools.partialmethod(init, **given)
    node.start_api_server = lambda self, **_: None
    try:
        yield
    finally:
        params.__init__, node.start_api_server = init, start_api_server


@contextlib.contextmanager
def connected(cluster: Cluster, client_output: bool = False) -> Iterator[Session]:
    """A connection to Ray for the length of a `with`: to a new local Ray, or to a cluster, which is left running.

    With `client_output`, and where fedray logs details, what actors print is shown.
    BadInputError if this process is connected already, or if no Ray can be started or joined.
    """
    with silent_raylets(), opened(cluster, client_output) as session:
        yield session


@contextlib.contextmanager
def opened(cluster: Cluster, client_output: bool) -> Iterator[Session]:
    """The connection of `connected`."""
    if ray.is_initialized():
        raise BadInputError("this process is connected to Ray already; call ray.shutdown() before a fedray run")
    local = cluster.address == "local"
    if not local and (wanted := [name for name in OF_OWN_RAY if getattr(cluster, name) is not None]):
        raise BadInputError(
            f"cluster.{wanted[0]} is for a Ray of the run's own (cluster.address = local); a cluster has what its "
            "nodes were started with"
        )
    if local:
        options: dict[str, Any] = {
            "num_cpus": cluster.cpus or cores(),
            "num_gpus": cluster.gpus,
            "object_store_memory": store_here(cluster),
        }
    else:
        options = {}
    forks, address = will_fork(cluster), "local" if local else find(cluster.address)
    speaks, began = log.isEnabledFor(logging.DEBUG), time.perf_counter()
    shows = speaks or client_output
    guard = Guard(fork_server() if forks else None, get_default_ray_temp_dir())
    try:
        with (
            deferred() if local else contextlib.nullcontext(),
            handlers_kept(),
            lean(forks, shows) if local else contextlib.nullcontext(),
        ):
            context: Any = ray.init(
                address=address,
                include_dashboard=False if local else None,
                logging_level=logging.INFO if speaks else logging.ERROR,
                log_to_driver=shows,
                _system_config={"prestart_worker_first_driver": False} if forks else None,  # they would stay idle
                **options,
            )
        guard.started()
        log.debug("starting or joining Ray took %.2f s", time.perf_counter() - began)
        log.debug("what its processes log stays in %s/logs", context.address_info["session_dir"])
    except Exception as error:  # Ray raises Exception itself where a node does not start in time
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = "no Ray could be started here" if local else f"no Ray cluster could be joined at {address}"
        raise BadInputError(f"{what}: {first}") from error
    except BaseException:
        ray.shutdown()  # it may be up already; if not, this does nothing
        guard.end()
        raise
    printed, pool = Printed() if shows else None, None
    try:
        look = Nodes().capacity
        if local:
            capacity = replace(look(), memory=available_memory(), limits=describe_limits())
            capacity = replace(capacity, gpu_memory=memory_of_each(capacity.gpus) if capacity.gpus else None)
            look = lambda pool=None: capacity  # noqa: E731  nobody else can hold any of it
        else:
            check_nodes([node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")], NODE_SECONDS)
            look()
        nursery = open_nursery() if forks else None
        try:
            pool = Pool(cluster.start_timeout, nursery, None if local else look)
            yield Session(look, pool)
        finally:
            if nursery:
                nursery.close()
    finally:
        session = Path(context.address_info["session_dir"])
        try:
            if printed and pool and not local:
                printed.wait(pool.slots)
        finally:
            ray.shutdown()
            try:
                if printed:
                    printed.close(session / "logs" if local else None)
            finally:
                if local and not speaks:
                    shutil.rmtree(session, ignore_errors=True)  # Ray leaves its logs and sockets behind
                guard.close()


def open_nursery() -> Nursery | None:
    """The nursery for actors of the Ray that was just started; None where forking is not known to work."""
    server = fork_server()
    if server is None:
        return None
    raylet = next(child.pid for child in psutil.Process().children() if child.name() == "raylet")
    return Nursery(server, ray.get_runtime_context().get_job_id(), raylet)
