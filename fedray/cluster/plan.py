"""The reservations of a population: the number of actors, and the CPU and GPU share of each. Arithmetic only."""

import math
from dataclasses import dataclass, replace

from fedray.cluster.capacity import STORE_SHARE, Capacity
from fedray.cluster.gpus import check_gpu_memory, least_share, mib, needed, runs_on_share
from fedray.cluster.needs import Needs, process_bytes, vectors_of
from fedray.cluster.settings import Cluster
from fedray.cluster.shares import SMALLEST_SHARE, room, room_on_gpus, round_down, share
from fedray.core.errors import BadInputError

MOST_AUTOMATIC = 100  # clients that get an actor each by default; starting one takes 0.4 s
MOST_ON_A_GPU = 4  # packed actors on a GPU by default: each costs a context; with engine = fused there is one


@dataclass(frozen=True)
class Plan:
    """The reservations of a run: `actors` processes with `num_cpus` and `num_gpus` each.

    `room` is the number of such actors that fit, and `most` the number that the run could use. At most `most_lanes`
    work at a time, so that no more than the cores are busy. `gpu_bytes` is an actor's part of its GPU's memory, None
    where unknown. `why` is a sentence on how the GPUs changed a setting that is on auto.
    """

    actors: int
    clients_per_actor: int
    num_cpus: float
    num_gpus: float
    room: int
    most_lanes: int
    most: int = 0
    gpu_bytes: int | None = None
    why: str = ""

    @property
    def lanes(self) -> int:
        """The number of its actors that can work at a time."""
        return min(self.actors, self.most_lanes)

    @property
    def packed(self) -> bool:
        return self.clients_per_actor > 1


def plan(cluster: Cluster, clients: int, capacity: Capacity, needs: Needs) -> Plan:
    """The reservations of a population; BadInputError with the arithmetic when they cannot fit."""
    if not any(capacity.cpus):
        held = f"all of its {capacity.held_cpus:g} are held by other jobs" if capacity.held_cpus else "it has none"
        raise BadInputError(f"the cluster offers no CPUs ({held}), and every actor reserves a share of one")
    memory = cluster.gpu_memory * 2**20 if cluster.gpu_memory else capacity.gpu_memory
    capacity = replace(capacity, gpu_memory=memory)
    if not capacity.has_gpus:
        cluster = replace(cluster, gpus_per_client=0.0)
    if needs.fewer and min(1.0, cluster.gpus_per_client or 1.0) < least_share(memory, needs, packed=True):
        needs = needs.fewer
    per_actor, why = cluster.clients_per_actor or 1, ""
    on_gpus = capacity.has_gpus and cluster.gpus_per_client != 0
    if clients > 1 and per_actor == 1 and (needs.together == "anywhere" or (needs.together and on_gpus)):
        if cluster.clients_per_actor == 1:
            where = "" if needs.together == "anywhere" else ", on a GPU,"
            raise BadInputError(
                f"cluster.clients_per_actor = 1 keeps clients apart, and engine = fused{where} trains them as one "
                "program; leave it on auto, or choose engine = plain"
            )
        per_actor = max(2, -(-clients // max(1, int(sum(capacity.cpus)))))
    if cluster.clients_per_actor is None and clients > 1 and per_actor == 1:
        against = against_an_actor_each(cluster, clients, capacity, needs)
        if against is not None:
            per_actor, why = max(2, -(-clients // max(1, int(sum(capacity.cpus))))), against
    if per_actor == 1:
        actors, num_cpus, num_gpus = clients, *shares_of_each(cluster, clients, capacity)
    else:
        actors, num_cpus, num_gpus = pack(cluster, clients, per_actor, capacity, needs)
        least = least_share(memory, needs, packed=True)
        if not why and num_gpus and cluster.gpus_per_client is None and least > 1 / MOST_ON_A_GPU:
            why = f"each needs {mib(needed(needs, packed=True))} MiB there"
    check_fit(actors, num_cpus, num_gpus, capacity)
    check_memory(cluster, actors, num_gpus > 0, needs, capacity)
    check_gpu_memory(cluster, actors, num_gpus, memory, needs, per_actor > 1)
    if cluster.clients_per_actor is None:
        per_actor = max(per_actor, -(-clients // actors))
    fit = room_for_actors(num_cpus, num_gpus, capacity)
    most_lanes = fit if per_actor > 1 or num_gpus else max(1, int(sum(capacity.cpus)))
    most = clients if cluster.clients_per_actor is None else -(-clients // per_actor)
    gpu_bytes = int(min(1.0, num_gpus) * memory) if memory and num_gpus else None
    return Plan(actors, per_actor, num_cpus, num_gpus, fit, most_lanes, most, gpu_bytes, why)


def reserves_gpus(cluster: Cluster, capacity: Capacity) -> bool:
    """Whether the actors of a plan reserve shares of GPUs."""
    wanted = cluster.gpus_per_client
    return capacity.has_gpus and wanted != 0 and bool(wanted or capacity.single_gpus)


def shares_of_each(cluster: Cluster, clients: int, capacity: Capacity) -> tuple[float, float]:
    """The CPUs and the share of a GPU of an actor, where each client has one."""
    gpus, num_gpus = capacity.single_gpus, cluster.gpus_per_client
    if num_gpus is None:
        num_gpus = max(share(gpus, clients), SMALLEST_SHARE) if gpus else 0.0
    places = capacity.places(num_gpus) if num_gpus else [clients] * len(capacity.cpus)
    return cluster.cpus_per_actor or share(capacity.cpus, clients, places), num_gpus


def against_an_actor_each(cluster: Cluster, clients: int, capacity: Capacity, needs: Needs) -> str | None:
    """The reason why clients on auto are packed; None where each gets an actor.

    Empty where that is not for the GPUs: there are too many clients, or the machine has too little memory.
    """
    _, num_gpus = shares_of_each(cluster, clients, capacity)
    memory = clients * process_bytes(cluster, needs, num_gpus > 0) + needs.shards + needs.object_store
    if clients > MOST_AUTOMATIC or memory > 0.8 * capacity.memory:
        return ""
    if not num_gpus:
        return None
    if sum(capacity.places(num_gpus)) < clients:
        return f"{clients} x {num_gpus:g} GPU are more than fit {capacity.gpus:g} GPU{'s' * (capacity.gpus != 1)}"
    if min(1.0, num_gpus) + 1e-9 < least_share(capacity.gpu_memory, needs, packed=False):
        has, wanted = int(num_gpus * (capacity.gpu_memory or 0)), mib(needed(needs, packed=False))
        return f"{clients} would have {has // 2**20} MiB of a GPU each, and need {wanted} MiB"
    return None


def pack(cluster: Cluster, clients: int, per_actor: int, capacity: Capacity, needs: Needs) -> tuple[int, float, float]:
    """The number of actors that serve all clients together, and the CPUs and the GPU share of each.

    A share that nobody asked for holds what a process needs; so does one that was asked for each of clients which are
    packed unasked.
    """
    asked, unasked = cluster.gpus_per_client, cluster.clients_per_actor is None
    least = min(1.0, least_share(capacity.gpu_memory, needs, packed=True))
    if asked and unasked:
        num_gpus = max(asked, least)
        places = capacity.places(num_gpus)
        most = min(clients, MOST_AUTOMATIC, max(1, sum(places)))
        num_cpus = cluster.cpus_per_actor or share(capacity.cpus, most, places)
    else:
        most = -(-clients // per_actor)
        num_gpus = 0.0 if asked is None else max(min(1.0, asked * per_actor), asked)
        if asked is None and capacity.single_gpus:
            most_on = 1 if needs.at_once_on_gpu > 1 else MOST_ON_A_GPU
            num_gpus = round_down(1 / min(most_on, int(1 / least + 1e-9) if least else most_on))
        able = [cpus for cpus, gpus in capacity.nodes if not num_gpus or room_on_gpus(gpus, num_gpus)]
        num_cpus = cluster.cpus_per_actor or min(1.0, max(able or capacity.cpus))
        if asked is None and num_gpus:  # they take what no other actor could use
            fit = max(1, room_for_actors(num_cpus, num_gpus, capacity))
            larger = share(capacity.single_gpus, fit)
            num_gpus = larger if room_for_actors(num_cpus, larger, capacity) >= fit else num_gpus
    actors = min(most, max(1, room_for_actors(num_cpus, num_gpus, capacity)))
    if unasked:
        spare = capacity.memory - stored_bytes(cluster, needs, capacity)
        actors = max(1, min(actors, int(spare // process_bytes(cluster, needs, num_gpus > 0))))
    return actors, num_cpus, num_gpus


def stored_bytes(cluster: Cluster, needs: Needs, capacity: Capacity) -> int:
    """The bytes of a run's object store in memory. Beyond its limit the store goes to disk."""
    most = cluster.object_store * 2**20 if cluster.object_store else int(STORE_SHARE * capacity.memory)
    return min(needs.object_store, most)


def check_memory(cluster: Cluster, actors: int, on_gpu: bool, needs: Needs, capacity: Capacity) -> None:
    """Refuse actors that memory cannot hold, with the arithmetic."""
    each, store = process_bytes(cluster, needs, on_gpu), stored_bytes(cluster, needs, capacity)
    if actors * each + store <= capacity.memory:
        return
    counts = needs.activations >= 2**20 and not on_gpu
    images = f" and {needs.activations / 2**20:.4g} MiB for batches of images" if counts else ""
    smaller = "a smaller model or algorithm.batch_size" if counts else "a smaller model"
    whole, store_mib, free = (mib(size) for size in (each, store, capacity.memory))
    limits = f" ({capacity.limits})" if capacity.limits else ""
    raise BadInputError(
        f"{actors} actor{'' if actors == 1 else 's'} x {whole} MiB, of which {vectors_of(needs, on_gpu)} vectors of "
        f"{needs.model / 2**20:.3g} MiB each{images}, and {store_mib} MiB of shared memory need "
        f"{actors * whole + store_mib} MiB, but {free} MiB are free{limits}; raise cluster.clients_per_actor or "
        f"choose {smaller}"
    )


RUNS_AT_ONCE = 3  # one has work for every core while another is between rounds


def runs_at_once(plan: Plan, needs: Needs, capacity: Capacity) -> int:
    """The number of such runs to have in flight on the same actors: enough for all cores, if memory holds them.

    Each has a trainer in every actor, on its GPU if it has one, a few vectors in the driver, and its share of the
    object store.
    """
    vectors = needs.vectors * needs.at_once * plan.actors + 6
    each = vectors * needs.model + plan.actors * needs.frozen + needs.object_store
    images = plan.actors * needs.activations  # an actor has them for one run at a time
    fit = int(min(0.5 * (capacity.memory - images) / max(1, each), runs_on_share(plan.gpu_bytes, needs, plan.packed)))
    return max(1, min(RUNS_AT_ONCE * -(-plan.most_lanes // plan.lanes), fit))


def room_for_actors(num_cpus: float, num_gpus: float, capacity: Capacity) -> int:
    """The number of actors with these reservations that fit. Each fits on one node."""
    return room(capacity.cpus, num_cpus, capacity.places(num_gpus) if num_gpus else ())


def check_fit(actors: int, num_cpus: float, num_gpus: float, capacity: Capacity) -> None:
    """Refuse actors that the CPUs and GPUs cannot hold, with the arithmetic. Ray would wait for ever in silence."""
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
    """The number that is free, in words."""
    return f"only {free:g} of {free + held:g}{what} are free" if held else f"there are {free:g}{what}"
