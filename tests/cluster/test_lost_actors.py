"""Whatever goes wrong with processes, the run goes on, to the same bits, and says what happened."""

import dataclasses
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.exceptions import OutOfMemoryError
from small_data import bits_of, make_recipe

from fedray import results
from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.cluster.tickets import Errand, Patience, Ticket, Traffic
from fedray.core.errors import ClientError, TooFewSurvivorsError
from fedray.experiment.composition import compose
from fedray.models.build import build, initial_vectors
from fedray.run import run
from fedray.server.participation import Faults
from fedray.server.rounds import play_rounds
from fedray.training.in_process import InProcessPopulation

SHARDS = [np.arange(0, 21), np.arange(21, 30), np.arange(30, 70), np.arange(70, 96)]


class Slow(FedAvg):
    """Slow enough for something to happen meanwhile; and it remembers, so that a call that counted twice would show."""

    def init_memory(self, params, buffers):
        return {"times": torch.zeros(1)}

    def correct(self, grad, params, message, memory, lr):
        time.sleep(0.05)
        return grad

    def finish(self, start, end, steps, lr, message, memory):
        times = memory["times"] + 1
        return {"params": (end - start) * times}, {"times": times}


SLOW = Slow(lr=0.05, batch_size=8)


class Troubled:
    """A Ray population to which something happens while it trains round 2."""

    def __init__(self, population, trouble):
        self.population, self.trouble, self.updates = population, trouble, []

    def __getattr__(self, name):
        return getattr(self.population, name)

    def __len__(self):
        return len(self.population)

    def take(self, handle):
        timer = threading.Timer(0.1, self.trouble) if handle.task.t == 2 else None
        if timer:
            timer.start()
        self.updates.append(self.population.take(handle))
        if timer:
            timer.join()
        return self.updates[-1]


def on_ray(session, dataset, patience=Patience(), clients_per_actor=2, recipe=None):  # noqa: B008
    planned = plan(Cluster(clients_per_actor=clients_per_actor), len(SHARDS), session.capacity, Needs(250_000))
    notices = []
    recipe = recipe or make_recipe(dataset)
    population = RayPopulation(session.pool, planned, dataset, SHARDS, recipe, 2, None, patience, notices.append)
    return population, notices


def play(population, recipe, faults=None, rounds=3, algorithm=SLOW):
    """The bits of each round, with whom they are from."""
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    ts = range(1, rounds + 1)
    bits = []
    for done in play_rounds(algorithm, population, state, ts=ts, rounds=rounds, cohort=4, seed=5, faults=faults):
        reports = [(r.client, r.steps, r.train_loss, r.update_norm) for r in done.updates.reports]
        bits.append((done.state["params"].tobytes(), reports, bits_of(population.evaluate(done.state))))
    return bits


@pytest.fixture(scope="module")
def undisturbed(dataset):
    recipe = make_recipe(dataset)
    return play(InProcessPopulation(dataset, SHARDS, recipe, 2), recipe)


def happened(population):
    """All events, once the actors have come up that are on their way."""
    while any(slot.starting is not None and not slot.gone for slot in population.slots):
        population.dispatcher.turn()
    return population.events()


def kill(killed, pid):
    killed.append(pid)
    os.kill(pid, signal.SIGKILL)


def busy(population):
    """The process of an actor that is at work."""
    return next(slot.where["pid"] for slot in population.slots if slot.tickets)


@pytest.mark.parametrize("clients_per_actor", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_hung_actor_is_ended_and_its_calls_are_made_again(session, dataset, undisturbed, clients_per_actor):
    population, notices = on_ray(session, dataset, Patience(factor=4, seconds=2), clients_per_actor)
    pids = {slot.where["pid"] for slot in population.slots}
    hung = Troubled(population, lambda: os.kill(busy(population), signal.SIGSTOP))
    began = time.monotonic()
    assert play(hung, population.recipe) == undisturbed
    assert 2 < time.monotonic() - began < 60
    assert hung.updates[1].retries >= 1
    ended, started = (event for event in happened(population) if event.kind != "slow")  # as all are on a busy machine
    assert (ended.kind, started.kind) == ("hung", "actor_started")
    assert ended.pid in pids
    assert ended.clients
    assert set(ended.clients) <= {0, 1, 2, 3}
    assert started.pid not in pids
    assert not psutil.pid_exists(ended.pid)
    assert any(text.startswith(f"actor taken to hang (process {ended.pid}), at work on client") for text in notices)
    population.close()


def test_before_anything_was_measured_a_slow_call_is_only_told_of(session, dataset, undisturbed):
    population, notices = on_ray(session, dataset, Patience(factor=1e-9, seconds=1.0))
    population.evaluate({"params": undisturbed_start(dataset), "buffers": np.zeros(0, np.float32)})
    stopped = population.slots[0].where["pid"]
    os.kill(stopped, signal.SIGSTOP)
    threading.Timer(3.0, lambda: os.kill(stopped, signal.SIGCONT)).start()
    assert play(population, population.recipe, rounds=1) == undisturbed[:1]
    assert [event.kind for event in population.events()] == ["slow"]
    assert "it has no deadline" in notices[0]
    assert len(notices) == 1
    population.close()


def undisturbed_start(dataset):
    recipe = make_recipe(dataset)
    return initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))[0]


@pytest.mark.parametrize("clients_per_actor", [2, 1])
def test_a_lost_actor_is_an_event_that_says_which_and_with_whom(session, dataset, undisturbed, clients_per_actor):
    population, notices = on_ray(session, dataset, clients_per_actor=clients_per_actor)
    killed = []
    troubled = Troubled(population, lambda: kill(killed, busy(population)))
    assert play(troubled, population.recipe) == undisturbed
    lost, started = happened(population)
    assert (lost.kind, [lost.pid], started.kind) == ("actor_lost", killed, "actor_started")
    assert lost.actor != started.actor
    assert started.actor in {slot.where["actor"] for slot in population.slots}
    assert lost.clients
    assert len(notices) == 1
    population.close()


@pytest.mark.parametrize("clients_per_actor", [2, 1])
def test_by_setting_the_clients_of_a_lost_actor_are_left_out_and_the_others_weigh_more(
    session, dataset, clients_per_actor
):
    population, _ = on_ray(session, dataset, clients_per_actor=clients_per_actor)
    troubled = Troubled(population, lambda: kill([], busy(population)))
    recipe = population.recipe
    bits = play(troubled, recipe, Faults(lost="drop"))
    missing = {report.client: report.status for report in troubled.updates[1].missing}
    assert set(missing.values()) == {"lost"}
    assert troubled.updates[1].retries == 0 or clients_per_actor == 2  # what only waited there is done elsewhere
    assert len(missing) == (2 if clients_per_actor == 2 else 1)
    blocks = [[client for client in block if client not in missing] for block in ([0, 1], [2, 3])]

    class Survivors(InProcessPopulation):
        """The round without those clients, from the same blocks."""

        def take(self, handle):
            if handle.task.t != 2:
                return super().take(handle)
            from fedray.training import in_process

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(in_process, "cut", lambda cohort, number: [block for block in blocks if block])
                return super().take(handle)

    assert bits == play(Survivors(dataset, SHARDS, recipe, 2), recipe)
    assert [memory["times"].item() for _, memory in population.memories(3)] == [
        2 if client in missing else 3 for client in range(4)
    ]
    population.close()


def test_with_too_few_survivors_a_round_is_repeated_and_then_the_run_stops(session, dataset, undisturbed):
    population, _ = on_ray(session, dataset)
    recipe, killed = population.recipe, []
    once = Troubled(population, lambda: killed or kill(killed, busy(population)))
    assert play(once, recipe, Faults(lost="drop", min_survivors=4)) == undisturbed  # the second attempt is complete
    assert [len(updates.reports) for updates in once.updates] == [4, 2, 4, 4]
    population.close()
    population, _ = on_ray(session, dataset)
    always = Troubled(population, lambda: kill(killed, busy(population)))
    with pytest.raises(TooFewSurvivorsError, match=r"round 2 was played twice, and 2 of 4 clients were lost"):
        play(always, recipe, Faults(lost="drop", min_survivors=3))
    population.close()


@pytest.mark.slow
def test_an_actor_that_hangs_before_it_has_answered_is_replaced(session, dataset, undisturbed, monkeypatch):
    """While it is being enrolled, and, in the second run, while it was idle between two runs."""
    original = RayPopulation.enrol

    def enrol(self):
        os.kill(self.slots[0].where["pid"], signal.SIGSTOP)
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(session.pool, "start_timeout", 6.0)
        patch.setattr(RayPopulation, "enrol", enrol)
        first, notices = on_ray(session, dataset, Patience(factor=4, seconds=2))
    assert [event.kind for event in happened(first)] == ["hung", "actor_started"]
    assert "when 6 s were allowed" in notices[0]
    assert play(first, first.recipe) == undisturbed
    pid = first.slots[0].where["pid"]
    first.close()
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(session.pool, "start_timeout", 6.0)
        second, _ = on_ray(session, dataset)
    assert pid not in {slot.where["pid"] for slot in second.slots}
    assert play(second, second.recipe) == undisturbed
    second.close()


@pytest.fixture(scope="module")
def elsewhere():
    """What a process with a Ray and a fork server of its own printed, which first stopped itself and then killed that server.

    It stops for longer than any call may take. A line for each run: digest of the bits, kinds of events but for calls that
    were slow before any was measured, as all are on a busy machine, and how many actors are no forks.
    """
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]!r}
import hashlib, os, subprocess, psutil
import test_lost_actors as tests
from fedray.cluster.forks import fork_server
from fedray.cluster.plan import Cluster
from fedray.cluster.start import connected
from small_data import make_dataset

data = make_dataset()
def played(trouble, patience):
    population, _ = tests.on_ray(session, data, patience)
    bits = tests.play(tests.Troubled(population, lambda: trouble(population)), population.recipe)
    kinds = [event.kind for event in tests.happened(population) if event.kind != "slow"]
    parents = [psutil.Process(slot.where["pid"]).parent().name() for slot in population.slots]
    population.close()
    print(hashlib.blake2b(repr(bits).encode()).hexdigest(), kinds, parents.count("raylet"))
def stop(population):
    subprocess.Popen(["sh", "-c", f"kill -STOP {{os.getpid()}}; sleep 5; kill -CONT {{os.getpid()}}"])
def orphan(population):
    server = psutil.Process(fork_server().process.pid)
    nursery = [child for child in server.children() if child.num_threads() == 1]
    for process in (server, *nursery):
        process.kill()
    tests.kill([], tests.busy(population))
with connected(Cluster(cpus=2, gpus=1, object_store=200, start_timeout=120)) as session:
    played(stop, tests.Patience(factor=4, seconds=1.5))
    played(orphan, tests.Patience())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def digest(bits):
    return hashlib.blake2b(repr(bits).encode()).hexdigest()


@pytest.mark.slow
def test_a_driver_that_was_stopped_blames_nobody(elsewhere, undisturbed):
    assert elsewhere[0] == f"{digest(undisturbed)} [] 0"


@pytest.mark.slow
def test_the_fork_server_may_die_and_what_comes_after_is_started_plainly(elsewhere, undisturbed):
    assert elsewhere[1] == f"{digest(undisturbed)} ['actor_lost', 'actor_started'] 1"


@pytest.fixture
def hoarder(tmp_path):
    """The settings of a run in which the first process to train in round 2 wants more memory than Ray allows it."""
    code = tmp_path / "hoarding.py"
    code.write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from fedray.algorithms.fedavg import FedAvg\n"
        "from fedray.settings import section\n"
        "import numpy as np\n\n\n"
        "@section\n"
        "class Hoarding(FedAvg):\n"
        "    flag: str = ''\n\n"
        "    def broadcast(self, state, t):\n"
        "        return {**super().broadcast(state, t), 't': np.full(1, t, np.float32)}\n\n"
        "    def correct(self, grad, params, message, memory, lr):\n"
        "        if message['t'].item() == 2:\n"
        "            try:\n"
        "                Path(self.flag).touch(exist_ok=False)\n"
        "            except FileExistsError:\n"
        "                return grad\n"
        "            hoard = [np.ones(2**27 // 8) for _ in range(40)]\n"
        "            time.sleep(30)\n"
        "        return grad\n"
    )
    return tmp_path


def test_an_actor_that_ray_ends_for_want_of_memory_is_replaced(hoarder, monkeypatch):
    program = (
        "import json, dataclasses, sys\n"
        "from hoarding import Hoarding\n"
        "from fedray.experiment.composition import compose\n"
        "from fedray.run import run\n"
        "from fedray.console import ConsoleWatch\n"
        "tree = json.loads(sys.argv[1])\n"
        "e = dataclasses.replace(compose(tree), algorithm=Hoarding(flag=sys.argv[2], batch_size=10))\n"
        "run(e, ConsoleWatch())\n"
    )
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 2.5 * 2**30) / memory.total
    flag = hoarder / "flag"
    env = {**os.environ, "RAY_memory_usage_threshold": f"{threshold:.4f}", "PYTHONPATH": str(hoarder)}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(small(hoarder, "ray")), str(flag)],
        env=env, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note      actor ended for want of memory" in done.stdout
    assert "x actor ended for want of memory" in done.stdout
    found = results.load("ray", hoarder)
    kinds = found.events["kind"].tolist()
    assert kinds[0] == "out_of_memory"
    assert set(kinds) == {"out_of_memory", "actor_started"}  # a machine with other work may want more of them
    monkeypatch.syspath_prepend(hoarder)
    algorithm = importlib.import_module("hoarding").Hoarding(flag=str(flag), batch_size=10)
    here = run(dataclasses.replace(compose(small(hoarder, "in-process")), algorithm=algorithm))  # the flag is there
    assert found.runs["model_fingerprint"].tolist() == here.runs["model_fingerprint"].tolist()


def small(root: Path, name: str, **changes):
    tree = {
        "rounds": 3,
        "clients": 4,
        "cohort": 3,
        "data": {"dataset": "synthetic", "train_examples": 160, "test_examples": 120},
        "algorithm": {"batch_size": 10},
        "cluster": {"backend": "ray" if name != "in-process" else name, "cpus": 2, "object_store": 200},
        "output": {"root": str(root), "name": name, "checkpoint_every": 2},
    }
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    return tree


class Unpicklable(FedAvg):
    def __reduce__(self):
        return explode, ()


def explode():
    raise ZeroDivisionError("on the way in")


def test_an_algorithm_that_does_not_arrive_is_an_error_that_says_so(session, dataset):
    population, _ = on_ray(session, dataset)
    with pytest.raises(ClientError, match="on the way in"):
        play(population, population.recipe, algorithm=Unpicklable(batch_size=8))
    assert population.events() == []
    population.close()


def test_deadlines_are_counted_for_each_run_and_each_handle_alone():
    traffic = Traffic(0, Patience(10, 60))
    early = Errand(traffic)
    traffic.measured["train"] = 2.0
    assert Errand(traffic).slowest == {}  # nobody has learned it yet
    traffic.learn()
    one, other = Errand(traffic), Errand(Traffic(1, Patience(10, 60)))
    ticket = Ticket(lambda actor: [], [], one, kind="train", cost=40.0, tries=1)
    assert early.time_for(ticket) == 800  # of what was unknown when it began, later paces set its deadlines
    traffic.measured["train"] = 5.0
    traffic.learn()
    assert (one.time_for(ticket), early.time_for(ticket)) == (800, 2000)  # of what was known, they do not
    assert one.time_for(ticket) == 800
    assert other.time_for(ticket) is None
    ticket.tries = 3  # the machine may have become slower
    assert one.time_for(ticket) == 3200
    ticket.cost, ticket.tries = 1.0, 1
    assert one.time_for(ticket) == 60
    ticket.within = 5.0
    assert one.time_for(ticket) == other.time_for(ticket) == 5


def test_out_of_memory_is_no_actor_error():
    """Which is why losses are told by RayError; a change of Ray's classes should be noticed."""
    assert not issubclass(OutOfMemoryError, ray.exceptions.RayActorError)
    assert dataclasses.is_dataclass(Patience)
