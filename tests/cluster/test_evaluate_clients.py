"""Clients are evaluated to the same bits in process and on Ray: packed, an actor for each client, whatever dies."""

import dataclasses
import os
import signal
import time
from functools import cache

import pytest
import ray
from client_scores import ALGORITHMS, DATASET, LOCAL, OWN_TESTS, ROUNDS, SHARDS, evaluated, on_ray
from small_data import make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.actor import BY_VALUE
from fedray.cluster.population import as_sent
from fedray.core.errors import ClientError
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import sample_cohort
from fedray.server.task import Task
from fedray.training.in_process import InProcessPopulation
from fedray.training.trainer import Trainer

MODELS = {name: make_recipe(DATASET, name) for name in ("logistic", "mlp")}


@cache
def evaluated_here(name, model):
    population = InProcessPopulation(DATASET, SHARDS, MODELS[model], 2, OWN_TESTS)
    return evaluated(population, ALGORITHMS[name], MODELS[model])


def test_what_is_sent_in_many_calls_is_copied_to_a_device_once(session):
    """A message in the object store is known again by its place, one without buffers too; the device is the CPU."""

    @ray.remote(num_cpus=0)  # the actors of files before this one, which share its Ray, may have all CPUs
    class Receiver:
        def __init__(self, recipe):
            self.trainer = Trainer(recipe, "cpu:0")

        def receives_anew(self, orders):
            before, received = self.trainer.last_received, self.trainer.on_its_place(orders[1])
            assert received["params"].numpy().tobytes() == orders[1]["params"].tobytes()
            return self.trainer.last_received is not before

    recipe = MODELS["mlp"]
    params, buffers = initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))
    messages = [{"params": params + each, "buffers": buffers} for each in (0, 1)]
    assert not buffers.size
    one, other = (as_sent(Task(ALGORITHMS["fedavg"], message, 1, 0.1)) for message in messages)
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
@pytest.mark.parametrize(
    ("clients_per_actor", "model"),
    [
        pytest.param(3, "mlp", id="packed-mlp"),
        pytest.param(1, "logistic", id="an actor per client-logistic"),
        pytest.param(3, "logistic", marks=pytest.mark.slow, id="packed-logistic"),
        pytest.param(1, "mlp", marks=pytest.mark.slow, id="an actor per client-mlp"),
    ],
)
def test_ray_gives_the_scores_of_one_process(session, clients_per_actor, model, name):
    population = on_ray(session, MODELS[model], clients_per_actor)
    assert evaluated(population, ALGORITHMS[name], MODELS[model]) == evaluated_here(name, model)
    population.close()


@pytest.mark.parametrize(
    ("clients_per_actor", "name"),
    [
        pytest.param(3, "ditto", id="packed-ditto"),
        pytest.param(1, "fedper", id="an actor per client-fedper"),
        *(pytest.param(3, name, marks=pytest.mark.slow, id=f"packed-{name}") for name in ("finetune", "fedper")),
        *(
            pytest.param(1, name, marks=pytest.mark.slow, id=f"an actor per client-{name}")
            for name in ("finetune", "ditto")
        ),
    ],
)
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


@pytest.mark.parametrize("clients_per_actor", [3, 1], ids=["packed", "an actor per client"])
def test_examples_of_their_own_and_scores_come_from_actors_as_from_one_process(session, clients_per_actor):
    recipe = dataclasses.replace(MODELS["logistic"], tested_on_own=True)
    here = InProcessPopulation(DATASET, SHARDS, recipe, 2, OWN_TESTS)
    there = on_ray(session, recipe, clients_per_actor)
    scores = evaluated(here, ALGORITHMS["fedavg"], recipe)
    assert scores != evaluated_here("fedavg", "logistic")
    assert evaluated(there, ALGORITHMS["fedavg"], recipe) == scores
    params, buffers = initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))
    for split in ("test", "validation"):
        one, other = (
            each.evaluate({"params": params, "buffers": buffers}, split, scores=True) for each in (here, there)
        )
        assert one.scores.shape == (len(DATASET.examples(split)[1]), recipe.classes)
        assert one.scores.tobytes() == other.scores.tobytes()
    there.close()
