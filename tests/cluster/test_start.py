"""Ray of a run's own, an existing cluster, and the quiet of both."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import ray
from head_node import LEAN
from ray.cluster_utils import Cluster as SeveralNodes

import fedray as fedray_package
from fedray import results
from fedray.cluster import versions
from fedray.cluster.settings import Cluster
from fedray.cluster.start import connected

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


def refused(*arguments, folder, **environment):
    """The one sentence of a command that changes nothing on disk."""
    done = start(*arguments, folder=folder, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("fedray: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / "results").exists()
    return done.stderr


NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    cluster = SeveralNodes(initialize_head=True, head_node_args={**NODE, **LEAN})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def left_behind(cluster):
    """What a cluster that was used still holds: living actors, CPUs and bytes of the object stores."""
    living = [actor for actor in cluster.global_state.actor_table(None).values() if actor["State"] != "DEAD"]
    free = cluster.global_state.available_resources_per_node().values()
    held = {kind: NODE[name] - node.get(kind, 0) for node in free for name, kind in KINDS.items()}
    return living, {kind: amount for kind, amount in held.items() if amount}


KINDS = {"num_cpus": "CPU", "object_store_memory": "object_store_memory"}


def assert_left_clean(cluster):
    deadline = time.monotonic() + 20
    while left_behind(cluster) != ([], {}) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left_behind(cluster) == ([], {})
    assert all(psutil.pid_exists(p.process.pid) for n in cluster.list_all_nodes() for p in n.all_processes["raylet"])


def test_an_existing_cluster_is_joined_when_asked_for_used_on_every_node_and_left_running(cluster, tmp_path):
    two = ("--clients", 2)
    out = fedray("--cluster.address", cluster.address, "--output.name", "joined", *two, folder=tmp_path)
    assert "2 Ray actors, one for each client, 1 CPU and no GPU here each; each imports torch anew" in out
    assert_left_clean(cluster)
    theirs = {"RAY_ADDRESS": cluster.address, "HOME": str(tmp_path)}
    lines = fedray("--output.name", "own", *two, folder=tmp_path, **theirs).splitlines()
    known = ("data", "clients", "model", "run", "actors", "round", "status", "accuracy", "loss", "time", "results")
    known += ("best", "classes")
    assert all(line.split()[0] in known for line in lines if line), lines  # nothing of Ray's, also in a new home
    joined, own = (results.load(name, tmp_path / "results") for name in ("joined", "own"))
    assert joined.population["node"].nunique() == 2
    assert own.population["node"].nunique() == 1
    assert not set(own.population["node"]) & set(joined.population["node"])
    assert joined.runs["model_fingerprint"][0] == own.runs["model_fingerprint"][0]


@pytest.mark.slow
def test_a_joined_cluster_is_left_clean_after_an_error_too(cluster, tmp_path):
    impatient = ["--cluster.start_timeout", 0.01]
    assert "only 0 of 3 actors" in refused("--cluster.address", cluster.address, *impatient, folder=tmp_path)
    assert_left_clean(cluster)


HOLDER = """
import ray, sys
ray.init(sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1)
class Other:
    def ready(self): return True
other = Other.remote()
print(ray.get(other.ready.remote()), flush=True)
sys.stdin.read()
"""


def test_what_other_jobs_hold_of_a_cluster_is_not_counted_on(cluster, tmp_path):
    command = [sys.executable, "-c", HOLDER, cluster.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout.readline() == b"True\n"
        with connected(Cluster(address=cluster.address)) as session:
            assert sorted(session.capacity.cpus) == [0, 1]
        sentence = refused("--cluster.address", cluster.address, "--cluster.cpus_per_actor", 0.5, folder=tmp_path)
        holder.stdin.close()
        holder.wait(20)
    assert "3 actors x 0.5 CPUs need 1.5 CPUs, but only 1 of 2 are free on 2 nodes, room for 2" in sentence
    assert_left_clean(cluster)


def other_versions(folder, **versions):
    """A folder that, early on a Python path, makes importlib.metadata report these versions."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_a_node_with_other_software_is_named_with_what_is_different(cluster, tmp_path, monkeypatch):
    path = other_versions(tmp_path / "path", torch="2.0.0")
    package = shutil.copytree(Path(fedray_package.__file__).parent, path / "fedray")
    (package / "vector.py").write_text("# changed\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(path))
        changed = cluster.add_node(**NODE)
    (path / "bare").mkdir()
    (path / "bare" / "sitecustomize.py").write_text(
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(path / "bare"))
        bare = cluster.add_node(**NODE)
    try:
        sentence = refused("--cluster.address", cluster.address, folder=tmp_path)
    finally:
        cluster.remove_node(changed)
        cluster.remove_node(bare)
    assert "must have the same software as this machine, but " in sentence
    both = sentence.partition("but ")[2].strip().split("; ")
    here = versions.software()
    assert (
        sum(
            f"has torch 2.0.0, not {here['torch']} and fedray {fedray_package.__version__} (source " in each
            for each in both
        )
        == 1
    ), sentence
    assert sum(f"has no fedray, which is {here['fedray']} here" in each for each in both) == 1, sentence
    assert len(both) == 2
    assert "\n" not in sentence.strip()
    assert_left_clean(cluster)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:9", "no Ray cluster could be joined at cluster.address '127.0.0.1:9': Connection refused"),
        ("here", "cluster.address 'here' is none of local, auto and HOST:PORT"),
        ("auto", "cluster.address 'auto' finds no cluster: `ray start` was not used on this machine"),
    ],
)
def test_an_address_where_no_ray_is_gives_one_sentence(address, why, tmp_path):
    assert why in refused("--cluster.address", address, folder=tmp_path, RAY_TMPDIR=str(tmp_path))


def test_what_only_a_ray_of_its_own_can_be_told_is_refused(tmp_path):
    sentence = refused("--cluster.address", "auto", "--cluster.cpus", 2, folder=tmp_path)
    assert "cluster.cpus is for a Ray of the run's own" in sentence


def test_an_address_where_another_program_listens_gives_one_sentence_soon(tmp_path):
    soon = {"RAY_py_gcs_connect_timeout_s": "1", "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        sentence = refused("--cluster.address", address, folder=tmp_path, **soon)
    assert "something listens there that does not answer as a Ray cluster does" in sentence


def test_a_driver_with_another_ray_than_the_cluster_is_told_so(cluster, tmp_path):
    path = other_versions(tmp_path / "path", ray="2.59.0")
    sentence = refused("--cluster.address", cluster.address, folder=tmp_path, PYTHONPATH=str(path))
    assert f"the cluster runs Ray {ray.__version__}, not 2.59.0 as this process does" in sentence


TOKEN = "a-token-of-enough-characters-for-anyone"


@pytest.fixture(scope="module")
def guarded():
    """The address of a cluster that was started with a token by `ray start`, and its home and temporary folders."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        (Path(folder) / ".ray").mkdir()
        (Path(folder) / ".ray" / "auth_token").write_text(TOKEN)
        home = {"HOME": folder, "RAY_TMPDIR": folder}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
        command += ["--num-cpus=1", f"--object-store-memory={100 * 2**20}", "--include-dashboard=false"]
        without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        log = Path(folder) / "log"
        with log.open("w") as out:
            head = subprocess.Popen(command, stdout=out, stderr=out, env=without | home)
        try:
            deadline = time.monotonic() + 60
            while "block forever" not in log.read_text():
                assert head.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}", home
        finally:
            processes = [head, *psutil.Process(head.pid).children(recursive=True)]
            head.terminate()
            head.wait(30)
            _, alive = psutil.wait_procs(processes[1:], timeout=10)
            for process in alive:
                process.kill()


BRING = "copy ~/.ray/auth_token from its head node to this machine, or set RAY_AUTH_TOKEN to the same on both"


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, f"it wants a token; {BRING}, and set RAY_AUTH_MODE=token"),
        pytest.param({"RAY_AUTH_MODE": "token"}, f"there is no token here; {BRING}", marks=pytest.mark.slow),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"},
            f"the token here is not the one that it wants; {BRING}",
        ),
        pytest.param(
            {"RAY_AUTH_TOKEN": TOKEN},
            "it wants a token, which Ray shows only when told to; set RAY_AUTH_MODE=token",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no mode and no token", "no token", "a wrong token", "no mode"],
)
def test_a_token_that_is_missing_or_wrong_gives_a_sentence_that_says_what_to_do(
    guarded, tmp_path, monkeypatch, environment, why
):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    sentence = refused("--cluster.address", guarded[0], folder=tmp_path, HOME=str(tmp_path), **environment)
    assert f"no Ray cluster could be joined at cluster.address '{guarded[0]}': {why}" in sentence


def test_auto_is_what_ray_start_was_last_used_for_and_shows_its_token(guarded, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    _, home = guarded
    one = ("--clients", 1, "--cohort", 1)
    assert "1 Ray actor, " in fedray("--cluster.address", "auto", *one, folder=tmp_path, **home)
