"""Ray started quietly, once for all runs of a process, and always shut down."""

import contextlib
import logging
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from fedray.cluster.forks import Nursery, fork_server
from fedray.cluster.pool import Pool
from fedray.cluster.resources import Capacity, Cluster, available_memory, cores, shared_memory, will_fork
from fedray.errors import BadInputError


@dataclass(frozen=True)
class Session:
    """A connection to Ray that several runs may share: what there is to reserve, and the warm actors."""

    capacity: Capacity
    pool: Pool


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Session]:
    """Ray for the length of a `with`: a local one of our own, or an existing cluster that is left running."""
    if ray.is_initialized():
        raise BadInputError("this process is connected to Ray already; call ray.shutdown() before a fedray run")
    local = cluster.address == "local"
    if local:
        options: dict[str, Any] = {
            "num_cpus": cluster.cpus or cores(),
            "num_gpus": cluster.gpus,
            "object_store_memory": cluster.object_store * 2**20 if cluster.object_store else shared_memory(),
        }
    else:
        options = {}
        check_reachable(cluster.address)
    try:
        context: Any = ray.init(
            address=cluster.address,
            include_dashboard=False if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **options,
        )
    except (ConnectionError, ray.exceptions.RayError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadInputError(
            f"no Ray cluster could be joined at cluster.address {cluster.address!r}: {first}"
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        memory = available_memory() if local else sum(node.get("memory", 0.0) for node in nodes)
        cpus = tuple(node["CPU"] for node in nodes if node.get("CPU"))
        capacity = Capacity(cpus, int(sum(node.get("GPU", 0.0) for node in nodes)), memory)
        nursery = open_nursery() if will_fork(cluster) else None
        try:
            yield Session(capacity, Pool(cluster.start_timeout, nursery))
        finally:
            if nursery:
                nursery.close()
    finally:
        session = Path(context.address_info["session_dir"]) if local else None
        ray.shutdown()
        if session:
            shutil.rmtree(session, ignore_errors=True)  # Ray leaves its logs and sockets behind


def open_nursery() -> Nursery | None:
    """Where the actors of the Ray that was just started are forked; None where forking is not known to work."""
    server = fork_server()
    if server is None:
        return None
    raylet = next(child.pid for child in psutil.Process().children() if child.name() == "raylet")
    return Nursery(server, ray.get_runtime_context().get_job_id(), raylet)


def check_reachable(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes and then end the process."""
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit() or "/" in address:
        raise BadInputError(f"cluster.address {address!r} is none of local, auto and HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise BadInputError(
            f"no Ray cluster could be joined at cluster.address {address!r}: {error.strerror or error}"
        ) from None
