"""Several nodes, real raylets on this machine: the bits of one process, whatever node is lost and whichever joins."""

import threading
import time
from functools import cache

import pytest
import ray
from head_node import LEAN
from ray.cluster_utils import Cluster as SeveralNodes

from fedray.cluster.pool import LAST
from fedray.cluster.settings import Cluster
from fedray.cluster.start import connected
from fedray.experiment.composition import compose
from fedray.run import run
from fedray.run.watch import Watch

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture(scope="module")
def nodes():
    cluster = SeveralNodes(initialize_head=True, head_node_args={**NODE, **LEAN, "_system_config": SOON})
    yield fill(cluster)
    cluster.shutdown()


def fill(cluster):
    """Three nodes of one CPU each."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(**NODE)
    return cluster


@pytest.fixture(scope="module")
def joined(nodes):
    """A connection to the cluster that keeps its actors, one on each node, from test to test."""
    with connected(Cluster(address=nodes.address, start_timeout=60)) as session:
        yield session


ROUNDS = 8
PACKED = {"clients": 6, "clients_per_actor": 2}
SINGLE = {"clients": 3, "clients_per_actor": 1}
HOMES = [pytest.param(PACKED, id="packed"), pytest.param(SINGLE, id="one per client")]


SHAKEN = [
    pytest.param("scaffold", PACKED, id="packed"),
    pytest.param("fedavg", SINGLE, marks=pytest.mark.slow, id="one per client"),
]


def experiment(root, cluster=None, algorithm="fedavg", clients=6, clients_per_actor=None):
    """Training that takes long enough for a node to be lost meanwhile, of a model of 248 kB."""
    where = {"backend": "in-process"} if cluster is None else {"address": cluster.address, "cpus_per_actor": 1}
    return compose(
        {
            "rounds": ROUNDS, "clients": clients, "cohort": clients,
            "data": {"dataset": "synthetic", "train_examples": 480, "test_examples": 60},
            "model": {"name": "lenet5"},
            "algorithm": {"name": algorithm, "lr": 0.02, "batch_size": 10, "steps": 120 // clients},
            "cluster": {**where, "clients_per_actor": clients_per_actor},
            "output": {"root": str(root), "name": "nodes", "checkpoint_every": 2},
        }
    )  # fmt: skip


VOLATILE = ("seconds", "cpu_seconds", "actor", "node", "pid", "finished_at", "retries")


def bits(tables):
    """The model's, and all that the tables say of the training but for where and how fast it was."""
    frames = [f[[c for c in f if not c.startswith(VOLATILE)]] for f in (tables.rounds, tables.clients)]
    return tables.runs["model_fingerprint"][0], *(frame.to_csv() for frame in frames)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The bits of the same experiment in this process."""

    @cache
    def play(algorithm, clients):
        root = tmp_path_factory.mktemp("alone")
        return bits(run(experiment(root, algorithm=algorithm, clients=clients)))

    return play


def living_nodes():
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])


class Looking(Watch):
    """Sees after each round which nodes hold the data set."""

    def __init__(self, session):
        self.session, self.holders = session, []

    def round(self, job, row):
        ref = self.session.pool.shared[LAST][1]
        self.holders = sorted(ray.experimental.get_object_locations([ref])[ref]["node_ids"])


@pytest.mark.slow
@pytest.mark.parametrize("packing", HOMES)
def test_actors_on_three_nodes_give_the_bits_of_one_process(nodes, joined, tmp_path, expected, packing):
    """Each node gets the data once, for all of its actors."""
    watch = Looking(joined)
    tables = run(experiment(tmp_path, fill(nodes), **packing), watch, joined)
    everywhere = living_nodes()
    assert len(everywhere) == 3
    assert bits(tables) == expected("fedavg", packing["clients"])
    assert watch.holders == everywhere
    assert sorted(tables.population["node"].unique()) == everywhere


class Shaken(Looking):
    """Kills a node while the fourth round is being trained, and has another one join after it.

    No checkpoint has what clients remember since the third.
    """

    def __init__(self, cluster, session):
        super().__init__(session)
        self.cluster, self.new, self.killer = cluster, "", None

    def kill(self):
        self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), allow_graceful=False)

    def round(self, job, row):
        if row["round"] == 3 and self.killer is None:
            super().round(job, row)
            self.everywhere = living_nodes()
            self.killer = threading.Timer(0.1, self.kill)
            self.killer.start()
        if row["round"] == 4 and not self.new:
            self.killer.join()
            self.new = self.cluster.add_node(**NODE).node_id
        if row["round"] > 4:
            time.sleep(0.5)
            coming = [slot.starting for slot in self.session.pool.slots if slot.starting is not None]
            ray.wait(coming or [ray.put(None)], num_returns=max(1, len(coming)), timeout=60)


@pytest.mark.parametrize(("algorithm", "packing"), SHAKEN)
def test_a_node_is_lost_in_mid_round_and_one_that_joins_is_used(
    nodes, joined, tmp_path, expected, algorithm, packing, capfd
):
    """Three nodes had the data before, and clients remembered something on each, which is made anew.

    Ray's own lines about it ("... has been marked dead ...") stay off the console.
    """
    watch = Shaken(fill(nodes), joined)
    tables = run(experiment(tmp_path, nodes, algorithm, **packing), watch, joined)
    assert bits(tables) == expected(algorithm, packing["clients"])
    assert len(watch.everywhere) == 3
    assert watch.holders == watch.everywhere
    assert "node_lost" in set(tables.events["kind"])
    if algorithm == "scaffold":
        assert "went_back" in set(tables.events["kind"])
    else:
        assert tables.rounds["retries"].sum() > 0
    out, err = capfd.readouterr()
    assert out == ""
    assert not [line for line in err.splitlines() if "Attempting to recover" not in line]  # of Ray's C++, at level E
    assert watch.new in set(tables.clients["node"][tables.clients["round"] == ROUNDS])


class Growing(Shaken):
    """Begins with two nodes; a third joins after the second round."""

    def round(self, job, row):
        if row["round"] == 2:
            self.new = self.cluster.add_node(**NODE).node_id
        super().round(job, {"round": max(5, row["round"])})


@pytest.mark.slow
def test_a_node_that_joins_is_used_though_none_was_lost(nodes, joined, tmp_path, expected):
    if len(nodes.worker_nodes) == 2:
        nodes.remove_node(next(iter(nodes.worker_nodes)))
    watch = Growing(nodes, joined)
    tables = run(experiment(tmp_path, nodes, **PACKED), watch, joined)
    assert bits(tables) == expected("fedavg", PACKED["clients"])
    assert watch.new in set(tables.clients["node"][tables.clients["round"] == ROUNDS])


class Bereaving(Shaken):
    """Kills a node after the third round, which so is lost with what clients have learned to remember there."""

    def round(self, job, row):
        if row["round"] == 3 and len(self.cluster.worker_nodes) == 2:
            self.kill()


@pytest.mark.slow
@pytest.mark.parametrize("packing", HOMES)
def test_memories_lost_with_their_node_are_made_anew(nodes, joined, tmp_path, expected, packing):
    tables = run(experiment(tmp_path, fill(nodes), "scaffold", **packing), Bereaving(nodes, joined), joined)
    assert bits(tables) == expected("scaffold", packing["clients"])
    assert "went_back" in set(tables.events["kind"])
