"""Shares of GPUs on real actors, with GPUs that Ray is only told of: what each reserves, where it lands, what is said."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from gpu_shares import at_each, populated, reserved
from tasks import train

from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.cluster.start import connected
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.models.build import build, initial_vectors
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.sweep.play import check


@pytest.fixture(scope="module")
def session():
    """Two CPUs and two GPUs, neither of which exists."""
    with connected(Cluster(cpus=2, gpus=2, object_store=200, start_timeout=120)) as session:
        yield session


def test_six_actors_of_0_3_land_three_on_each_of_two_gpus(session, dataset):
    with populated(session, dataset, 6, gpus_per_client=0.3) as population:
        assert sorted(at_each(population, reserved)) == [(0.3, "0")] * 3 + [(0.3, "1")] * 3
        rows = population.rows()
        assert len(set(rows["actor"])) == 6
        assert np.broadcast_to(rows["num_gpus"], 6).tolist() == [0.3] * 6


def test_a_seventh_client_has_them_packed_and_trained(session, dataset):
    """None waits for ever: the six actors train all seven."""
    with populated(session, dataset, 7, gpus_per_client=0.3) as population:
        assert sorted(at_each(population, reserved)) == [(0.3, "0")] * 3 + [(0.3, "1")] * 3
        algorithm = FedAvg(lr=0.05, batch_size=8)
        start = algorithm.init(*initial_vectors(build(population.recipe.model, (3, 32, 32), 10, 0)))
        updates = train(population, algorithm, list(range(7)), start, 1, 0.05)
        assert [report.client for report in updates.reports] == list(range(7))
    with pytest.raises(BadInputError, match="7 actors x 0.3 GPU do not fit"):
        plan(Cluster(gpus_per_client=0.3, clients_per_actor=1), 7, session.capacity, Needs(250_000))


def test_packed_actors_reserve_their_clients_shares(session, dataset):
    with populated(session, dataset, 4, gpus_per_client=0.25, clients_per_actor=2) as population:
        assert [share for share, _ in at_each(population, reserved)] == [0.5, 0.5]  # on the GPU that is free first
    with populated(session, dataset, 4, clients_per_actor=2) as population:  # a core each, and so a GPU each
        assert sorted(at_each(population, reserved)) == [(1.0, "0"), (1.0, "1")]


def test_it_is_said_where_some_actors_are_on_a_gpu_and_some_are_not(session, dataset, monkeypatch):
    with populated(session, dataset, 2, gpus_per_client=0.5) as one:
        for devices in (("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")):
            for slot, device in zip(one.slots, devices, strict=True):
                monkeypatch.setitem(slot.where, "device", device)
            notices = []
            other = RayPopulation(session.pool, one.plan, dataset, one.shards, one.recipe, 2, notice=notices.append)
            other.close()
            assert other.device == "cuda" and [text[:39] for text in notices] == [
                "torch finds a GPU for some actors only,"
            ] * (len(set(devices)) - 1)


def test_no_process_that_actors_are_forked_from_has_called_into_cuda(session, dataset):
    """torch would take no GPU where one had, as a process forked from an actor shows, which has."""

    def spoilt(actor):
        return torch.cuda._is_in_bad_fork()

    def spoils_its_children(actor):
        torch.cuda.is_available()
        mine, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, b"yes" if torch.cuda._is_in_bad_fork() else b"no")
            os._exit(0)
        os.waitpid(child, 0)
        return os.read(mine, 9) == b"yes"

    with populated(session, dataset, 2, gpus_per_client=0.5) as population:
        assert at_each(population, spoilt) == [False, False]
        if torch.version.cuda and session.pool.nursery:
            assert at_each(population, spoils_its_children) == [True, True]


# What is said, and what is refused.


def experiment(root, **cluster):
    return compose(
        {
            "rounds": 1, "clients": 4, "cohort": 2, "model": {"name": "logistic"}, "engine": "plain", "cluster": cluster,
            "data": {"dataset": "synthetic", "train_examples": 40, "test_examples": 20},
            "output": {"root": str(root), "name": "mine"},
        }
    )  # fmt: skip


class Listening(Watch):
    def __init__(self):
        self.where, self.notices = "", []

    def begin(self, job, where):
        self.where = where

    def notice(self, text):
        self.notices.append(text)


def played(root, session, **cluster):
    watch = Listening()
    tables = run(experiment(root, **cluster), watch, session)
    assert tables.runs["status"][0] == "finished"
    return watch, tables


needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here clients would train on a real GPU")


@needs_no_gpu
def test_with_gpus_that_do_not_exist_clients_train_on_the_cpu_and_it_is_said(session, tmp_path):
    watch, tables = played(tmp_path, session, gpus_per_client=0.5)
    assert watch.where.startswith(
        "4 Ray actors, one for each client, 0.5 CPU and 0.5 GPU each; clients train on the CPU"
    )
    assert watch.notices == [
        "torch finds no GPU where the actors have a share of one reserved, so clients train on the CPU"
    ]
    assert tables.runs["device"][0] == "cpu"
    assert set(tables.population["num_gpus"]) == {0.5}


def test_who_wants_no_gpu_is_told_nothing(session, tmp_path):
    watch, tables = played(tmp_path, session, gpus_per_client=0)
    assert watch.where.startswith("4 Ray actors, one for each client, 0.5 CPU and 0 GPU each")
    assert "train on" not in watch.where
    assert watch.notices == []
    assert set(tables.population["num_gpus"]) == {0}


def test_the_line_of_actors_says_why_they_are_packed(session, tmp_path):
    """A process needs 500 MiB for its context, 32 for cuBLAS, and 37 for evaluating 1,000 images at a time."""
    watch, _ = played(tmp_path, session, gpu_memory=1000)
    assert watch.where.startswith("2 Ray actors, 4 clients packed into them, 1 CPU and 1 GPU (1000 MiB) each; ")
    assert "; 4 would have 500 MiB of a GPU each, and need 569 MiB" in watch.where


def test_what_a_gpu_cannot_hold_is_refused_before_anything_is_on_disk(session, tmp_path):
    for settings in ({"gpu_memory": 500}, {"gpu_memory": 1000, "clients_per_actor": 1}):
        with pytest.raises(BadInputError, match="a process needs 569 there, 500 for its CUDA context, 32 for cuBLAS"):
            run(experiment(tmp_path, **settings), session=session)
    assert not list(tmp_path.iterdir())


def test_more_runs_at_once_than_an_actors_share_holds_are_refused(session, tmp_path):
    """An actor has 640 MiB, of which a process takes 532, and a run about 37, most of it for batches of images."""
    job = Job(experiment(tmp_path, gpu_memory=640, clients_per_actor=2))
    planned, at_once = check(job, session, 2, False)
    assert (planned.num_gpus, at_once) == (1, 2)
    with pytest.raises(
        BadInputError, match="--max-concurrent 99: the share of a GPU .*, 640 MiB, holds [0-9]+ such runs"
    ):
        check(job, session, 99, False)
    assert check(Job(experiment(tmp_path, clients_per_actor=2)), session, 99, False)[1] == 99  # nothing is known


@needs_no_gpu
def test_in_process_too_it_is_said_that_there_is_no_gpu(tmp_path):
    watch, tables = played(tmp_path, None, backend="in-process", gpus_per_client=0.5)
    assert watch.where == "this process, no Ray"
    assert watch.notices == [
        "there is no GPU here, so cluster.gpus_per_client = 0.5 reserves nothing, and clients train on the CPU"
    ]
    assert tables.runs["device"][0] == "cpu"
    assert played(tmp_path / "again", None, backend="in-process")[0].notices == []


def command(folder, *arguments, **environment):
    small = (
        "--rounds 1 --clients 3 --cohort 2 --data.dataset synthetic --data.train_examples 60 --data.test_examples 20"
    )
    words = [
        sys.executable,
        "-m",
        "fedray",
        *small.split(),
        "--model.name",
        "logistic",
        "--engine",
        "plain",
        *arguments,
    ]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=200, env=os.environ | environment, cwd=folder, check=False
    )


def test_without_a_gpu_the_same_command_runs_on_the_cpu_and_says_so(tmp_path):
    done = command(tmp_path, "--cluster.gpus", "0", "--cluster.gpus_per_client", "0.5")
    assert done.returncode == 0, done.stderr
    assert "3 Ray actors, one for each client, " in done.stdout
    assert " CPU and no GPU here each" in done.stdout
    assert done.stdout.count("there is no GPU here, so cluster.gpus_per_client = 0.5 reserves nothing") == 1


def test_the_memory_that_nvidia_smi_reports_is_what_actors_have_to_fit(tmp_path):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '0, GPU-1f6a, 1500, [N/A]'\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    asked = ("--cluster.gpus", "1", "--cluster.clients_per_actor", "1")
    done = command(tmp_path, *asked, PATH=path)
    assert done.returncode == 2
    assert (
        "fedray: 3 actors x 0.3333 GPU: of a GPU's 1500 MiB each has 499, but a process needs 570 there" in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bin"]
