"""What `auto` is on actors that reserve shares of GPUs, with GPUs that Ray is only told of."""

import numpy as np
import pytest
import torch
from gpu_shares import populated

from fedray import results
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import report_errors
from fedray.cluster.capacity import Capacity
from fedray.cluster.pool import Pool
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.cluster.start import Session, connected
from fedray.experiment.composition import compose
from fedray.models.build import build, initial_vectors
from fedray.run import opening, run
from fedray.run.opening import reserved
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.server.task import Task
from fedray.sweep import play
from fedray.sweep.__main__ import main as sweep

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here clients would train on a real GPU")


@pytest.fixture(scope="module")
def session():
    """Two GPUs that do not exist, or those that do."""
    gpus = None if torch.cuda.is_available() else 2
    with connected(Cluster(cpus=2, gpus=gpus, object_store=200, start_timeout=120)) as session:
        yield session


@pytest.fixture
def believed(monkeypatch):
    """The driver takes the GPUs to be there. The actors, which find none, train on the CPU what they are told to."""
    monkeypatch.setattr(RayPopulation, "device", property(lambda self: "cuda"))
    monkeypatch.setattr(Pool, "finds_no_gpu", False)


class Listening(Watch):
    def __init__(self):
        self.where, self.notices = "", []

    def begin(self, job, where):
        self.where = where

    def notice(self, text):
        self.notices.append(text)


def experiment(root, clients=101, **changes):
    tree = {
        "rounds": 2, "clients": clients, "cohort": 4, "model": {"name": "lenet5"}, "algorithm": {"batch_size": 8},
        "data": {"dataset": "synthetic", "train_examples": 2 * clients, "test_examples": 20},
        "output": {"root": str(root), "name": "mine"},
    }  # fmt: skip
    return compose(tree | changes)


def played(root, session, **changes):
    watch = Listening()
    return run(experiment(root, **changes), watch, session), watch


IN_PROCESS = {"cluster": {"backend": "in-process"}}


@needs_no_gpu
def test_many_clients_are_fused_on_as_few_actors_as_there_are_gpus(session, tmp_path, believed):
    tables, watch = played(tmp_path, session)
    assert watch.where.startswith("2 Ray actors, 101 clients packed into them, 1 CPU and 1 GPU each")
    assert tables.runs[["engine", "blocks", "device", "actors"]].to_numpy().tolist() == [["fused", 1, "cuda", 2]]
    assert watch.notices[0].startswith("engine = auto is fused on a GPU for more than 100 clients, and has blocks = 1")
    asked, _ = played(tmp_path / "asked", None, engine="fused", blocks=1, **IN_PROCESS)
    assert asked.runs["model_fingerprint"].tolist() == tables.runs["model_fingerprint"].tolist()


@needs_no_gpu
def test_few_clients_have_an_actor_each_with_its_share_and_a_notice_names_the_fused_engine(session, tmp_path, believed):
    tables, watch = played(tmp_path, session, clients=8)
    assert watch.where.startswith("8 Ray actors, one for each client, 0.25 CPU and 0.25 GPU each")
    assert tables.runs[["engine", "blocks"]].to_numpy().tolist() == [["plain", 16]]
    assert set(tables.population["num_gpus"]) == {0.25} and tables.population["actor"].nunique() == 8
    assert watch.notices == [
        "engine = fused would train a block's clients as one program, which is what keeps a GPU busy"
    ]


def test_clients_kept_apart_stay_plain(tmp_path):
    large = Session(lambda pool: Capacity((64.0,), 2.0, 2.0**40), Pool(1.0))
    apart = Job(experiment(tmp_path, cluster={"clients_per_actor": 1}))
    found, planned = reserved(apart, large, apart.experiment.cluster)
    assert (found.engine, planned.actors, planned.packed) == ("plain", 101, False)
    packed = Job(experiment(tmp_path))
    found, planned = reserved(packed, large, packed.experiment.cluster)
    assert (found.engine, planned.actors, planned.num_gpus) == ("fused", 2, 1.0)


@needs_no_gpu
def test_where_torch_finds_no_gpu_auto_is_what_it_is_on_a_cpu_to_the_same_bits(session, tmp_path, monkeypatch):
    """It shows when the actors are up. Then they are given the plain engine, and the next run knows it at once."""
    started, really = [], opening.start
    monkeypatch.setattr(opening, "start", lambda *given: started.append(given[2].engine) or really(*given))
    session.pool.give_up(session.pool.slots)
    tables, watch = played(tmp_path, session)
    assert started == ["fused", "plain"] and session.pool.finds_no_gpu
    assert tables.runs[["engine", "blocks", "device"]].to_numpy().tolist() == [["plain", 16, "cpu"]]
    assert watch.notices == [
        "torch finds no GPU where the actors have a share of one reserved, so clients train on the CPU"
    ]
    here, _ = played(tmp_path / "here", None, **IN_PROCESS)
    assert here.runs["run"].tolist() == tables.runs["run"].tolist()
    assert here.runs["model_fingerprint"].tolist() == tables.runs["model_fingerprint"].tolist()
    again, _ = played(tmp_path / "again", session, seed=1)
    assert started[2:] == ["plain"] and set(again.population["actor"]) == set(tables.population["actor"])


@needs_no_gpu
def test_a_sweep_decides_as_a_run_does_and_its_runs_share_the_actors(session, tmp_path, believed, monkeypatch):
    (tmp_path / "lr.toml").write_text(
        "rounds = 1\nclients = 101\ncohort = 4\n[data]\ndataset = 'synthetic'\ntrain_examples = 202\n"
        f"test_examples = 20\n[output]\nroot = '{tmp_path}'\n[grid]\nseed = [0, 1]\nmodel.name = ['lenet5', 'mlp']\n"
    )

    class Shared:
        def __enter__(self):
            return session

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(play, "shared_session", lambda cluster, **_: Shared())
    assert report_errors(lambda: sweep([str(tmp_path / "lr.toml")])) == 0
    runs = results.load("lr", tmp_path).runs
    assert set(runs["engine"]) == {"fused"} and set(runs["blocks"]) == {1} and len(runs) == 4
    assert results.load("lr", tmp_path).population["actor"].nunique() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_many_clients_are_fused_and_few_have_an_actor_each(session, tmp_path):
    many, _ = played(tmp_path / "many", session)
    assert many.runs[["engine", "blocks", "device"]].to_numpy().tolist() == [["fused", 1, "cuda"]]
    again, _ = played(tmp_path / "again", None, **IN_PROCESS)
    assert again.runs[["engine", "blocks", "device"]].to_numpy().tolist() == [["fused", 1, "cuda"]]
    assert again.runs["model_fingerprint"].tolist() == many.runs["model_fingerprint"].tolist()
    few, watch = played(tmp_path / "few", session, clients=8)
    assert few.runs[["engine", "blocks", "device", "actors"]].to_numpy().tolist() == [["plain", 16, "cuda", 8]]
    assert "engine = fused would train" in watch.notices[0]


# Idle lanes.


@needs_no_gpu
@pytest.mark.parametrize(("settings", "lanes"), [({"clients_per_actor": 1}, 5), ({"clients_per_actor": 3}, 2)])
def test_only_lanes_that_could_have_had_work_are_counted_as_idle(session, dataset, settings, lanes):
    """Five of ten clients, with an actor each, are five calls; two actors for all of them are busy with ten blocks."""
    with populated(session, dataset, 10, gpus_per_client=0.2, **settings) as population:
        assert population.plan.lanes == (10 if lanes == 5 else population.plan.actors)
        algorithm = FedAvg(lr=0.05, batch_size=8)
        start = algorithm.init(*initial_vectors(build(population.recipe.model, (3, 32, 32), 10, 0)))
        for clients, most in (([0, 2, 4, 6, 8], lanes), ([3], 1), ([], 1)):
            handle = population.submit(Task(algorithm, start, 1, 0.05), clients)
            assert handle.errand.occupancy.lanes == min(population.plan.lanes, most)
            seconds = population.take(handle).seconds
            population.discard(handle)
            assert seconds.idle >= 0 and np.isfinite(seconds.train)
