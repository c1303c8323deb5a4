"""Populations on Ray, of four clients with shards of noise, and the bits that rounds with them give."""

import numpy as np
import torch
from small_data import bits_of

from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import play_rounds
from fedray.training.spec import Recipe

SHARDS = [np.arange(0, 21), np.arange(21, 30), np.arange(30, 70), np.arange(70, 96)]


def on_ray(session, dataset, recipe, blocks=2, **settings):
    planned = plan(Cluster(**settings), len(SHARDS), session.capacity, Needs(250_000))
    return RayPopulation(session.pool, planned, dataset, SHARDS, recipe, blocks)


def play(population, algorithm, recipe: Recipe, rounds=2, cohort=3):
    """The bits after each round: state, reports and evaluation."""
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    bits = []
    for done in play_rounds(
        algorithm, population, state, ts=range(1, rounds + 1), rounds=rounds, cohort=cohort, seed=5
    ):
        reports = [(r.client, r.num_examples, r.steps, r.train_loss, r.update_norm) for r in done.updates.reports]
        vectors = {name: vector.tobytes() for name, vector in done.state.items()}
        scores = [bits_of(population.evaluate(done.state, split, 3)) for split in ("test", "validation")]
        bits.append((vectors, reports, scores))
    return bits


class Counting(FedAvg):
    """An algorithm with client memory: its update is scaled by how often the client has been asked."""

    def init_memory(self, params, buffers):
        return {"times": torch.zeros(1)}

    def finish(self, start, end, steps, lr, message, memory):
        times = memory["times"] + 1
        return {"params": (end - start) * times}, {"times": times}


ALGORITHM = FedAvg(lr=0.05, momentum=0.9, batch_size=8)
