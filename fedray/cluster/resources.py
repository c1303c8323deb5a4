"""What a population asks of Ray: how many actors, with how much of a CPU and a GPU each. Arithmetic only."""

import math
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedray.errors import BadInputError
from fedray.settings import Auto, section, setting

PLAIN_ACTOR_BYTES = 320 * 2**20  # a process with torch imported, measured
FORKED_ACTOR_BYTES = 60 * 2**20  # what such a process has of its own when it was forked, measured after training
MOST_AUTOMATIC = 100  # clients that get an actor each unasked: starting one takes 0.4 s
GPU_CONTEXT_BYTES = 500 * 2**20  # a CUDA context in host memory, of which each process needs its own
STORE_SHARE = 0.4  # of memory, the most that a local Ray's object store may take
SMALLEST_SHARE = 0.0001  # of a CPU or GPU, the least that Ray counts


@section
class Cluster:
    """Where a run runs. Nothing in this section changes a result, so none of it is in the run id."""

    backend: Literal["ray", "in-process"] = setting(
        "ray", "ray: every client a Ray actor (or packed into some); in-process: no Ray, one client after another."
    )
    address: str = setting(
        "local",
        "A Ray of the run's own (local), or an existing cluster that this machine is part of: its host:port, or auto "
        "for that of RAY_ADDRESS or of the last `ray start` here.",
    )
    clients_per_actor: Auto[int] = setting(
        None,
        "1: an actor for each client; more: clients packed into actors; auto: 1 for up to 100 that fit in memory.",
        ge=1,
    )
    cpus: Auto[int] = setting(None, "CPUs of the local Ray; auto: the cores of this machine.", unit="cores", ge=1)
    gpus: Auto[int] = setting(None, "GPUs of the local Ray; auto: those of this machine.", unit="GPUs", ge=0)
    cpus_per_actor: Auto[float] = setting(
        None, "CPU share that each actor reserves; auto: one, or what makes them fit.", unit="cores", ge=SMALLEST_SHARE
    )
    gpus_per_client: Auto[float] = setting(
        None, "GPU share reserved for each client; auto: what makes the actors fit, 0 without a GPU.", unit="GPUs", ge=0
    )
    forked: Auto[bool] = setting(
        None,
        "Whether actors are forked from one process that has torch imported, which takes a sixth of the memory and "
        "time; auto: on Linux, with a Ray of the run's own.",
    )
    object_store: Auto[int] = setting(
        None, "Most shared memory of the local Ray; auto: 40 % of what is free, taken as needed.", unit="MiB", ge=80
    )
    start_timeout: float = setting(180.0, "How long all actors may take to start.", unit="seconds", gt=0)
    deadline_factor: float = setting(
        10.0,
        "A call that takes so many times as long as the slowest before it did for its size is taken to hang: its "
        "process is ended, and the call made again. 0: it may take as long as it likes.",
        ge=0,
    )
    deadline_seconds: float = setting(
        60.0, "But no call is taken to hang sooner than this, nor before one like it ended.", unit="seconds", gt=0
    )

    def __post_init__(self) -> None:
        if self.address not in ("local", "auto") and not re.fullmatch(r"[^\s/]+:[0-9]{1,5}", self.address):
            raise BadInputError(f"cluster.address {self.address!r} is none of local, auto and HOST:PORT")


@dataclass(frozen=True)
class Capacity:
    """What is free to be reserved: the CPUs of each node, GPUs in all, and bytes of memory to spare.

    `node_gpus` are the GPUs of each node, the last of which may be a part, where there are several nodes. `held_cpus`
    and `held_gpus` are those that other jobs hold.
    """

    cpus: tuple[float, ...]
    gpus: float
    memory: float
    node_gpus: tuple[float, ...] = ()
    held_cpus: float = 0.0
    held_gpus: float = 0.0

    @property
    def nodes(self) -> list[tuple[float, float]]:
        """The free CPUs and GPUs of each node."""
        return list(zip(self.cpus, self.node_gpus or [self.gpus] * len(self.cpus), strict=True))


def capacity_of(nodes: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], memory: float) -> Capacity:
    """The capacity of a cluster's nodes, given as what each has and what of it is free, as Ray names resources.

    Nodes without CPUs are left out: every actor reserves a share of one.
    """
    useful = [(has, free) for has, free in nodes if has.get("CPU")]
    cpus, gpus = ([free.get(kind, 0.0) for _, free in useful] for kind in ("CPU", "GPU"))
    held_cpus, held_gpus = (
        sum(has.get(kind, 0.0) - free.get(kind, 0.0) for has, free in useful) for kind in ("CPU", "GPU")
    )
    return Capacity(tuple(cpus), sum(gpus), memory, tuple(gpus), held_cpus, held_gpus)


@dataclass(frozen=True)
class Plan:
    """What will be reserved: `actors` processes of `num_cpus` and `num_gpus` each, serving clients_per_actor or all.

    `room` is how many such actors would fit, for other runs' sake, and `most` how many could be of use, were there
    room. At most `most_lanes` work at a time: more than there are cores would only be in each other's way.
    """

    actors: int
    clients_per_actor: int
    num_cpus: float
    num_gpus: float
    room: int
    most_lanes: int
    most: int = 0

    @property
    def lanes(self) -> int:
        """How many of its actors can work at a time."""
        return min(self.actors, self.most_lanes)

    @property
    def packed(self) -> bool:
        return self.clients_per_actor > 1


@dataclass(frozen=True)
class Needs:
    """What a run asks of memory, in bytes: one model vector, all shards as copied into actors, the object store.

    A process that trains holds so many `vectors` as long as the model, `frozen` bytes that no vector has, and, where
    the model is not on a GPU, `activations` for a batch of images.
    """

    model: int
    shards: int = 0
    object_store: int = 0
    vectors: int = 4
    frozen: int = 0
    activations: int = 0


def plan(cluster: Cluster, clients: int, capacity: Capacity, needs: Needs) -> Plan:
    """The reservations of a population; BadInputError with the arithmetic when they cannot fit."""
    if not any(capacity.cpus):
        held = f"all of its {capacity.held_cpus:g} are held by other jobs" if capacity.held_cpus else "it has none"
        raise BadInputError(f"the cluster offers no CPUs ({held}), and every actor reserves a share of one")
    cpus, gpus = capacity.cpus, [part for node in capacity.nodes if node[0] for part in single(node[1])]
    per_actor = cluster.clients_per_actor
    if per_actor is None:
        need = clients * process_bytes(cluster, needs, bool(gpus))
        fits = clients <= MOST_AUTOMATIC and need + needs.shards + needs.object_store <= 0.8 * capacity.memory
        per_actor = 1 if fits else -(-clients // max(1, int(sum(cpus))))
    if per_actor == 1:
        actors = clients
        num_gpus = cluster.gpus_per_client
        if num_gpus is None:
            num_gpus = share(gpus, actors) if gpus else 0.0
        at_most = [room_on_gpus(node[1], num_gpus) if num_gpus else actors for node in capacity.nodes]
        num_cpus = cluster.cpus_per_actor or share(cpus, actors, at_most)
    else:
        if cluster.gpus_per_client is None:
            num_gpus = 0.25 if gpus else 0.0  # a few processes keep a GPU busy; each costs a context
        else:
            num_gpus = max(min(1.0, cluster.gpus_per_client * per_actor), cluster.gpus_per_client)
        able = [node[0] for node in capacity.nodes if not num_gpus or room_on_gpus(node[1], num_gpus)]
        num_cpus = cluster.cpus_per_actor or min(1.0, max(able or cpus))
        actors = min(-(-clients // per_actor), max(1, room_for_actors(num_cpus, num_gpus, capacity)))
        if cluster.clients_per_actor is None:
            spare = capacity.memory - stored_bytes(cluster, needs, capacity)
            actors = max(1, min(actors, int(spare // process_bytes(cluster, needs, num_gpus > 0))))
    check_fit(actors, num_cpus, num_gpus, capacity)
    check_memory(cluster, actors, num_gpus > 0, needs, capacity)
    fit = room_for_actors(num_cpus, num_gpus, capacity)
    most_lanes = fit if per_actor > 1 or num_gpus else max(1, int(sum(cpus)))
    most = clients if cluster.clients_per_actor is None else -(-clients // per_actor)
    return Plan(actors, per_actor, num_cpus, num_gpus, fit, most_lanes, most)


HOST_VECTORS = 4  # as long as the model, of a process whose model is on a GPU: what it sends, and what it is made of


def vectors_of(needs: Needs, on_gpu: bool) -> int:
    """How many vectors as long as the model an actor that has trained holds in the machine's memory."""
    return min(HOST_VECTORS, needs.vectors) if on_gpu else needs.vectors


def process_bytes(cluster: Cluster, needs: Needs, on_gpu: bool) -> int:
    """The memory of an actor that has trained."""
    process = FORKED_ACTOR_BYTES if will_fork(cluster) else PLAIN_ACTOR_BYTES
    images = GPU_CONTEXT_BYTES if on_gpu else needs.activations
    return process + images + vectors_of(needs, on_gpu) * needs.model + needs.frozen


def stored_bytes(cluster: Cluster, needs: Needs, capacity: Capacity) -> int:
    """The memory of a run's object store, which goes to disk beyond the most that it may take."""
    most = cluster.object_store * 2**20 if cluster.object_store else int(STORE_SHARE * capacity.memory)
    return min(needs.object_store, most)


def check_memory(cluster: Cluster, actors: int, on_gpu: bool, needs: Needs, capacity: Capacity) -> None:
    """Refuse, with the arithmetic, what would be killed for want of memory."""
    each, store = process_bytes(cluster, needs, on_gpu), stored_bytes(cluster, needs, capacity)
    if actors * each + store <= capacity.memory:
        return
    counts = needs.activations >= 2**20 and not on_gpu
    images = f" and {needs.activations / 2**20:.4g} MiB for batches of images" if counts else ""
    smaller = "a smaller model or algorithm.batch_size" if counts else "a smaller model"
    mib, store_mib, free = (math.ceil(size / 2**20) for size in (each, store, capacity.memory))
    raise BadInputError(
        f"{actors} actor{'' if actors == 1 else 's'} x {mib} MiB, of which {vectors_of(needs, on_gpu)} vectors of "
        f"{needs.model / 2**20:.3g} MiB each{images}, and {store_mib} MiB of shared memory need "
        f"{actors * mib + store_mib} MiB, but {free} MiB are free; raise cluster.clients_per_actor or choose {smaller}"
    )


RUNS_AT_ONCE = 3  # enough that one has work for every core while another is between rounds


def runs_at_once(plan: Plan, needs: Needs, capacity: Capacity) -> int:
    """How many such runs to have in flight on the same actors: what keeps the cores busy, if memory holds them.

    Each has a trainer in every actor, a few vectors in the driver, and its share of the object store.
    """
    each = (needs.vectors * plan.actors + 6) * needs.model + plan.actors * needs.frozen + needs.object_store
    images = plan.actors * needs.activations  # which an actor has for one of them at a time
    fit = int(0.5 * (capacity.memory - images) / max(1, each))
    return max(1, min(RUNS_AT_ONCE * -(-plan.most_lanes // plan.lanes), fit))


def will_fork(cluster: Cluster) -> bool:
    """Whether actors are to be forked; BadInputError where that was asked for and cannot be."""
    can = sys.platform == "linux" and cluster.address == "local"
    if cluster.forked and not can:
        raise BadInputError("cluster.forked = true works on Linux with cluster.address = local only")
    return can if cluster.forked is None else cluster.forked


def local_capacity(cluster: Cluster, gpus: int) -> Capacity:
    """What a local Ray with these settings will offer on this machine, which has `gpus` GPUs."""
    cpus = float(cluster.cpus or cores())
    return Capacity((cpus,), gpus if cluster.gpus is None else cluster.gpus, available_memory())


def room(wholes: Sequence[float], part: float, most: Sequence[int] = ()) -> int:
    """How many parts the wholes (nodes' CPUs, or single GPUs) hold, none of them across two, and in each `most`."""
    fit = [math.floor(whole / part + 1e-9) for whole in wholes]
    return sum(map(min, fit, most)) if most else sum(fit)


def room_for_actors(num_cpus: float, num_gpus: float, capacity: Capacity) -> int:
    """How many actors with such reservations fit, each on one node."""
    most = [room_on_gpus(gpus, num_gpus) for _, gpus in capacity.nodes] if num_gpus else ()
    return room(capacity.cpus, num_cpus, most)


def room_on_gpus(gpus: float, share: float) -> int:
    """How many actors a node's GPUs hold: shares of one, or whole ones."""
    return room(single(gpus), share) if share <= 1 else int(gpus // share)


def single(gpus: float) -> list[float]:
    """GPUs one by one, the last of which may be a part."""
    rest = gpus - int(gpus)
    return [1.0] * int(gpus) + ([rest] if rest >= SMALLEST_SHARE else [])


def share(wholes: Sequence[float], parts: int, most: Sequence[int] = ()) -> float:
    """The largest equal share of at most 1 of which the wholes hold `parts`, rounded down to what Ray can count.

    With `most`, where the wholes may not hold more than so many parts each, if that is possible at all.
    """
    most = most if sum(limit for whole, limit in zip(wholes, most, strict=False) if whole) >= parts else ()
    candidates = (whole / n for whole in wholes if whole for n in range(1, parts + 1))
    fitting = (c for c in candidates if room(wholes, c, most) >= parts)
    best = min(1.0, max(fitting))
    return math.floor(best / SMALLEST_SHARE + 1e-6) * SMALLEST_SHARE


def check_fit(actors: int, num_cpus: float, num_gpus: float, capacity: Capacity) -> None:
    """Refuse, with the arithmetic, what Ray would wait for silently and for ever."""
    total = sum(capacity.cpus)
    nodes = f" on {len(capacity.cpus)} nodes" if len(capacity.cpus) > 1 else ""
    there = free_of(total, capacity.held_cpus)
    if num_cpus < SMALLEST_SHARE:
        raise BadInputError(
            f"{actors} actors cannot share {total:g} CPUs: a share is at least {SMALLEST_SHARE:g}; "
            "pack clients with cluster.clients_per_actor"
        )
    if actors > room(capacity.cpus, num_cpus):
        raise BadInputError(
            f"{actors} actors x {num_cpus:g} CPUs need {actors * num_cpus:g} CPUs, but {there}{nodes}, "
            f"room for {room(capacity.cpus, num_cpus)}; lower cluster.cpus_per_actor or raise cluster.clients_per_actor"
        )
    if 0 < num_gpus < SMALLEST_SHARE:
        raise BadInputError(f"{num_gpus:g} GPU an actor: a share is at least {SMALLEST_SHARE:g}")
    if num_gpus > 1 and num_gpus != int(num_gpus):
        raise BadInputError(f"{num_gpus:g} GPUs an actor: a share above 1 must be a whole number")
    if not num_gpus:
        return
    fit = room_for_actors(num_cpus, num_gpus, capacity)
    if actors > fit:
        there = free_of(capacity.gpus, capacity.held_gpus, " GPUs")
        by_gpu = sum(room_on_gpus(gpus, num_gpus) for _, gpus in capacity.nodes)
        beside = f" with {num_cpus:g} CPUs each beside them" if fit < by_gpu else ""
        raise BadInputError(
            f"{actors} actors x {num_gpus:g} GPU do not fit: one GPU holds {math.floor(1 / num_gpus + 1e-9)} of them, "
            f"and {there}{nodes}, so room for {fit}{beside}; lower cluster.gpus_per_client or raise "
            "cluster.clients_per_actor"
        )


def free_of(free: float, held: float, what: str = "") -> str:
    """How many there are to be had, in words."""
    return f"only {free:g} of {free + held:g}{what} are free" if held else f"there are {free:g}{what}"


def object_store_bytes(data_bytes: int, model_bytes: int, cohort: int) -> int:
    """What a run holds in shared memory at most: the data set, three messages and a cohort's updates."""
    return data_bytes + (3 + cohort) * model_bytes


def shared_memory() -> int:
    """The most that a local Ray's object store may take, in bytes; it takes what is put there, and no more.

    40 % of memory, but no more than there is of /dev/shm, beyond which Ray would keep its objects on disk.
    """
    limit = int(STORE_SHARE * available_memory())
    if Path("/dev/shm").is_dir():
        limit = min(limit, int(0.9 * shutil.disk_usage("/dev/shm").free))
    return max(limit, 100 * 2**20)


def available_memory() -> int:
    """Bytes of memory that new processes can have on this machine."""
    import psutil

    return int(psutil.virtual_memory().available)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
