"""Ray of a run's own, an existing cluster, and the quiet of both."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster as SeveralNodes

from fedray import results
from fedray.cluster.resources import Cluster
from fedray.cluster.start import connected
from fedray.errors import BadInputError

SMALL = [
    "--rounds", "2", "--clients", "3", "--cohort", "2", "--data.dataset", "synthetic", "--data.train_examples", "120",
    "--data.test_examples", "60", "--cluster.clients_per_actor", "1",
]  # fmt: skip


def start(*arguments, folder, **environment):
    command = [sys.executable, "-m", "fedray", *SMALL, *map(str, arguments)]
    environment = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=folder)


def fedray(*arguments, folder, **environment):
    done = start(*arguments, folder=folder, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def cluster():
    cluster = SeveralNodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200 * 2**20})
    cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    yield cluster
    cluster.shutdown()


def test_an_existing_cluster_is_joined_used_on_every_node_and_left_running(cluster, tmp_path):
    out = fedray("--cluster.address", cluster.address, "--output.name", "joined", folder=tmp_path)
    assert "3 Ray actors, one for each client, 0.5 CPU and no GPU here each; each imports torch anew" in out
    assert all(psutil.pid_exists(p.process.pid) for n in cluster.list_all_nodes() for p in n.all_processes["raylet"])
    lines = fedray("--output.name", "own", folder=tmp_path, HOME=str(tmp_path)).splitlines()
    known = ("data", "clients", "model", "run", "actors", "round", "status", "accuracy", "loss", "time", "results")
    assert all(line.split()[0] in known for line in lines if line), lines  # nothing of Ray's, also in a new home
    joined, own = (results.load(name, tmp_path / "results") for name in ("joined", "own"))
    assert joined.population["node"].nunique() == 2
    assert own.population["node"].nunique() == 1
    assert not set(own.population["node"]) & set(joined.population["node"])
    assert joined.runs["model_fingerprint"][0] == own.runs["model_fingerprint"][0]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:9", "no Ray cluster could be joined at cluster.address '127.0.0.1:9': Connection refused"),
        ("here", "cluster.address 'here' is none of local, auto and HOST:PORT"),
    ],
)
def test_an_address_where_no_ray_is_gives_one_sentence(address, why, tmp_path):
    done = start("--cluster.address", address, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fedray: {why}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_second_connection_in_one_process_is_refused(session):
    with pytest.raises(BadInputError, match="connected to Ray already"), connected(Cluster()):
        raise AssertionError("connected twice")


def test_a_local_ray_leaves_no_session_folder_behind(tmp_path):
    code = (
        "from fedray.cluster.start import connected\n"
        "from fedray.cluster.resources import Cluster\n"
        "import ray\n"
        "with connected(Cluster(cpus=1)):\n"
        "    print(ray._private.worker._global_node.get_session_dir_path())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert not Path(done.stdout.strip()).exists()
