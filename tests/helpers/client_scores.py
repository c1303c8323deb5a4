"""The scores, round after round, of clients with shards and test images of their own."""

import numpy as np
from small_data import make_dataset

from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedper import FedPer
from fedray.algorithms.finetune import FineTune
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import play_rounds
from fedray.server.task import Task

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
ROUNDS = 3


def evaluated(population, algorithm, recipe, disturb=lambda t: None):
    """What all clients get after each of three rounds of two clients, and the server's state in the end."""
    scores = []
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    for done in play_rounds(algorithm, population, state, ts=range(1, ROUNDS + 1), rounds=ROUNDS, cohort=2, seed=5):
        disturb(done.t)
        scores.append(
            population.evaluate_clients(Task(algorithm, algorithm.broadcast(done.state, done.t), done.t, done.lr))
        )
    return scores, {name: vector.tobytes() for name, vector in done.state.items()}


def on_ray(session, recipe, clients_per_actor):
    planned = plan(Cluster(clients_per_actor=clients_per_actor), len(SHARDS), session.capacity, Needs(250_000))
    return RayPopulation(session.pool, planned, DATASET, SHARDS, recipe, 2, OWN_TESTS)
