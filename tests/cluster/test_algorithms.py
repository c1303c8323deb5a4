"""Every algorithm is the same bits in one process, on Ray with packed clients, and with an actor for each client."""

from functools import cache

import numpy as np
import pytest
from small_data import make_algorithm, make_dataset, make_recipe

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedbn import FedBN
from fedray.algorithms.scaffold import Scaffold
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import play_rounds
from fedray.training.in_process import InProcessPopulation

SHARDS = [np.arange(0, 20), np.arange(20, 30), np.arange(30, 70), np.arange(70, 96)]
DATASET = make_dataset(test=10, side=8)
RECIPE = make_recipe(DATASET, "mlp")
LOCAL = {"lr": 0.02, "momentum": 0.5, "batch_size": 8, "steps": 3}
CASES = {name: make_algorithm(kind, **LOCAL) for name, kind in ALGORITHMS.items() if name != "fedbn"}
CASES["scaffold, option I"] = Scaffold(option="I", **LOCAL)


def bits(population, algorithm, recipe=RECIPE, cohort=3):
    """After each of two rounds the state and the reports, and in the end what every client remembers."""
    rounds, found = 2, []
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    ts = range(1, rounds + 1)
    for done in play_rounds(algorithm, population, state, ts=ts, rounds=rounds, cohort=cohort, seed=5):
        found.append({name: vector.tobytes() for name, vector in done.state.items()})
        found.append([(r.client, r.steps, r.train_loss, r.update_norm, r.bytes_up) for r in done.updates.reports])
    memories = population.memories(rounds)
    return found, {client: {name: v.tobytes() for name, v in memory.items()} for client, memory in memories}


@cache
def played_here(case):
    return bits(InProcessPopulation(DATASET, SHARDS, RECIPE, 2), CASES[case])


@pytest.mark.parametrize("case", CASES)  # fastest, so that actors stay warm
@pytest.mark.parametrize("clients_per_actor", [2, 1], ids=["packed", "an actor per client"])
def test_ray_gives_the_bits_of_one_process(session, clients_per_actor, case):
    rounds, memories = played_here(case)
    planned = plan(Cluster(clients_per_actor=clients_per_actor), len(SHARDS), session.capacity, Needs(250_000))
    population = RayPopulation(session.pool, planned, DATASET, SHARDS, RECIPE, 2)
    assert bits(population, CASES[case]) == (rounds, memories)
    population.close()
    assert bool(memories) == CASES[case].remembers
    assert (rounds[0] == rounds[2]) == (case == "local")  # whose server has nothing to do


def test_fedbn_gives_the_bits_of_one_process(session):
    """On images of 8 by 8 pixels."""
    recipe, algorithm, shards = make_recipe(DATASET, "resnet20"), FedBN(lr=0.02, batch_size=10), SHARDS[:2]
    here = bits(InProcessPopulation(DATASET, shards, recipe, 2), algorithm, recipe, cohort=1)
    assert here[1]
    for clients_per_actor in (2, 1):
        planned = plan(Cluster(clients_per_actor=clients_per_actor), 2, session.capacity, Needs(250_000))
        population = RayPopulation(session.pool, planned, DATASET, shards, recipe, 2)
        assert bits(population, algorithm, recipe, cohort=1) == here
        population.close()
