"""Clients are evaluated to the same bits in process and on Ray: packed, an actor for each client, whatever dies."""

import os
import signal
import time
from functools import cache

import numpy as np
import pytest
import ray
from small_data import make_dataset, make_recipe

from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedper import FedPer
from fedray.algorithms.finetune import FineTune
from fedray.cluster.actor import BY_VALUE
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation, as_sent
from fedray.cluster.settings import Cluster
from fedray.core.errors import ClientError
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import play_rounds, sample_cohort
from fedray.training.in_process import InProcessPopulation
from fedray.training.trainer import Trainer

SHARDS = [np.arange(0, 20), np.arange(20, 30), np.arange(30, 60), np.arange(60, 85), np.arange(85, 96)]
OWN_TESTS = [np.arange(0, 40, 3), np.arange(5, 9), np.arange(0, 40, 2), np.arange(30, 40), np.arange(7, 8)]
DATASET = make_dataset(test=40, side=8)
LOCAL = {"lr": 0.05, "momentum": 0.5, "batch_size": 8}
ALGORITHMS = {
    "fedavg": FedAvg(**LOCAL),
    "finetune": FineTune(fine_tune_epochs=2, **LOCAL),
    "ditto": Ditto(lam=0.5, **LOCAL),
    "fedper": FedPer(**LOCAL),
}
MODELS = {name: make_recipe(DATASET, name) for name in ("logistic", "mlp")}
ROUNDS = 3


def evaluated(population, algorithm, recipe, disturb=lambda t: None):
    """What all clients get after each of three rounds of two clients, and the server's state in the end."""
    scores = []
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    for done in play_rounds(algorithm, population, state, ts=range(1, ROUNDS + 1), rounds=ROUNDS, cohort=2, seed=5):
        disturb(done.t)
        scores.append(population.evaluate_clients(algorithm, algorithm.broadcast(done.state, done.t), done.t, done.lr))
    return scores, {name: vector.tobytes() for name, vector in done.state.items()}


@cache
def evaluated_here(name, model):
    population = InProcessPopulation(DATASET, SHARDS, MODELS[model], 2, OWN_TESTS)
    return evaluated(population, ALGORITHMS[name], MODELS[model])


def on_ray(session, recipe, clients_per_actor):
    planned = plan(Cluster(clients_per_actor=clients_per_actor), len(SHARDS), session.capacity, Needs(250_000))
    return RayPopulation(session.pool, planned, DATASET, SHARDS, recipe, 2, OWN_TESTS)


def test_what_is_sent_in_many_calls_is_copied_to_a_device_once(session):
    """A message in the object store is known again by its place, one without buffers too; the device is the CPU."""

    @ray.remote(num_cpus=0.1)
    class Receiver:
        def __init__(self, recipe):
            self.trainer = Trainer(recipe, "cpu:0")

        def receives_anew(self, orders):
            before, received = self.trainer.last_received, self.trainer.received(orders[1])
            assert received["params"].numpy().tobytes() == orders[1]["params"].tobytes()
            return self.trainer.last_received is not before

    recipe = MODELS["mlp"]
    params, buffers = initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))
    messages = [{"params": params + each, "buffers": buffers} for each in (0, 1)]
    assert not buffers.size
    one, other = (as_sent(ALGORITHMS["fedavg"], message) for message in messages)
    receiver = Receiver.remote(recipe)
    calls = [ray.get(receiver.receives_anew.remote(sent)) for sent in (one, one, one, other, other, one)]
    ray.kill(receiver)
    assert calls == [True, False, False, True, False, True]


def test_what_is_compared_is_worth_it():
    """Someone takes part once, someone more often and someone never; one model travels with the calls, the other through
    the object store; each algorithm gives each client a score of its own.
    """
    took_part = [k for t in range(1, ROUNDS + 1) for k in sample_cohort(5, t, len(SHARDS), 2)]
    assert {took_part.count(k) for k in range(len(SHARDS))} > {0, 1}
    small, large = (
        4 * sum(p.numel() for p in build(recipe.model, recipe.shape, recipe.classes, 0).parameters())
        for recipe in (MODELS["logistic"], MODELS["mlp"])
    )
    assert small < BY_VALUE < large
    last = [evaluated_here(name, "mlp")[0][-1] for name in ALGORITHMS]
    assert len({loss for scores in last for _, loss, _ in scores}) == len(ALGORITHMS) * len(SHARDS)
    assert all([n for n, _, _ in scores] == [len(rows) for rows in OWN_TESTS] for scores in last)


@pytest.mark.parametrize("name", ALGORITHMS)  # fastest, so that actors stay warm
@pytest.mark.parametrize("model", ["logistic", "mlp"])
@pytest.mark.parametrize("clients_per_actor", [3, 1], ids=["packed", "an actor per client"])
def test_ray_gives_the_scores_of_one_process(session, clients_per_actor, model, name):
    population = on_ray(session, MODELS[model], clients_per_actor)
    assert evaluated(population, ALGORITHMS[name], MODELS[model]) == evaluated_here(name, model)
    population.close()


@pytest.mark.parametrize("name", ["finetune", "ditto", "fedper"])
@pytest.mark.parametrize("clients_per_actor", [3, 1], ids=["packed", "an actor per client"])
def test_a_killed_actor_changes_no_score(session, clients_per_actor, name):
    """All actors die between the second round's training and its evaluation: memories, shards and test rows come back."""
    population = on_ray(session, MODELS["mlp"], clients_per_actor)

    before = set(population.rows()["pid"])

    def kill(t):
        if t == 2:
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    assert evaluated(population, ALGORITHMS[name], MODELS["mlp"], kill) == evaluated_here(name, "mlp")
    assert before - set(population.rows()["pid"])  # another may still be coming up
    population.close()


class Broken(FedAvg):
    def own_model(self, client, message, memory, lr):
        if client.number == 3:
            raise ZeroDivisionError("the user's own mistake")
        return super().own_model(client, message, memory, lr)


@pytest.mark.parametrize("clients_per_actor", [3, 1], ids=["packed", "an actor per client"])
def test_an_error_in_an_evaluation_names_client_and_round_and_leaves_the_actors_usable(session, clients_per_actor):
    population = on_ray(session, MODELS["mlp"], clients_per_actor)
    with pytest.raises(ClientError) as error:
        evaluated(population, Broken(**LOCAL), MODELS["mlp"])
    text = str(error.value)
    assert text.startswith("client 3 failed in its evaluation after round 1:")
    assert text.count("Traceback") == 1
    assert "ZeroDivisionError: the user's own mistake" in text
    population.close()
    again = on_ray(session, MODELS["mlp"], clients_per_actor)
    assert evaluated(again, ALGORITHMS["ditto"], MODELS["mlp"]) == evaluated_here("ditto", "mlp")
    again.close()
