"""The cores, GPUs and memory that this machine or a cluster can give. Reading and arithmetic only."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedray.cluster.gpus import installed, memory_of_each, visible
from fedray.cluster.settings import Cluster
from fedray.cluster.shares import room_on_gpus, single
from fedray.core.limits import available_memory, cores, describe_limits

STORE_SHARE = 0.4  # of memory, the most that a local Ray's object store may take


@dataclass(frozen=True)
class Capacity:
    """The resources that can be reserved: CPUs of each node, GPUs in all, bytes of free memory.

    `node_gpus` are the free GPUs of each node; the last GPU of a node may be a part. They are empty for a single node.
    Other jobs hold `held_cpus` and `held_gpus`. `gpu_memory` is the bytes of each GPU, None where unknown. `limits` is
    a sentence on what a container leaves of the machine.
    """

    cpus: tuple[float, ...]
    gpus: float
    memory: float
    node_gpus: tuple[float, ...] = ()
    held_cpus: float = 0.0
    held_gpus: float = 0.0
    gpu_memory: int | None = None
    limits: str = ""

    @property
    def has_gpus(self) -> bool:
        """Whether there is any GPU, free or held by other jobs."""
        return self.gpus + self.held_gpus > 0

    @property
    def single_gpus(self) -> list[float]:
        """The free GPUs of nodes with CPUs, one by one. The last one of a node may be a part."""
        return [part for cpus, gpus in self.nodes if cpus for part in single(gpus)]

    def places(self, num_gpus: float) -> list[int]:
        """The number of actors with this share of GPUs that each node has room for."""
        return [room_on_gpus(gpus, num_gpus) if cpus else 0 for cpus, gpus in self.nodes]

    @property
    def nodes(self) -> list[tuple[float, float]]:
        """The free CPUs and GPUs of each node."""
        return list(zip(self.cpus, self.node_gpus or [self.gpus] * len(self.cpus), strict=True))


def capacity_of(nodes: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], memory: float) -> Capacity:
    """The capacity of a cluster's nodes, each given as all it has and what is free, by Ray's names of resources.

    Nodes without CPUs are left out, since every actor reserves a share of one.
    """
    useful = [(has, free) for has, free in nodes if has.get("CPU")]
    cpus, gpus = ([free.get(kind, 0.0) for _, free in useful] for kind in ("CPU", "GPU"))
    held_cpus, held_gpus = (
        sum(has.get(kind, 0.0) - free.get(kind, 0.0) for has, free in useful) for kind in ("CPU", "GPU")
    )
    return Capacity(tuple(cpus), sum(gpus), memory, tuple(gpus), held_cpus, held_gpus)


def capacity_here(cluster: Cluster) -> Capacity:
    """The capacity that a Ray of the run's own would have on this machine. No Ray is asked."""
    gpus = float(len(visible(installed())) if cluster.gpus is None else cluster.gpus)
    each = memory_of_each(gpus) if gpus else None
    cpus = float(cluster.cpus or cores())
    return Capacity((cpus,), gpus, available_memory(), gpu_memory=each, limits=describe_limits())


def store_here(cluster: Cluster) -> int:
    """The most bytes of shared memory of a Ray of the run's own."""
    return cluster.object_store * 2**20 if cluster.object_store else shared_memory()


def spill_folder() -> Path:
    """The folder in which a Ray of the run's own has its session, where it spills objects and keeps its logs."""
    from ray._common.utils import get_default_ray_temp_dir

    return Path(get_default_ray_temp_dir())


def shared_memory() -> int:
    """The most bytes that a local Ray's object store may take. It takes only as much as is put there.

    The limit is 40 % of free memory, or what /dev/shm has if that is less. Beyond /dev/shm Ray keeps objects on disk.
    """
    limit = int(STORE_SHARE * available_memory())
    if Path("/dev/shm").is_dir():
        limit = min(limit, int(0.9 * shutil.disk_usage("/dev/shm").free))
    return max(limit, 100 * 2**20)
