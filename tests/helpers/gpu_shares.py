"""Actors that reserve shares of GPUs, and what each of them was given."""

import os
from contextlib import contextmanager

import numpy as np
import ray
from small_data import make_recipe

from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster


@contextmanager
def populated(session, dataset, clients, **settings):
    planned = plan(Cluster(**settings), clients, session.capacity, Needs(250_000))
    shards = np.array_split(np.arange(96), clients)
    population = RayPopulation(session.pool, planned, dataset, shards, make_recipe(dataset), clients)
    try:
        yield population
    finally:
        population.close()


def at_each(population, function):
    """What a function gives in each actor's process."""
    return ray.get([slot.handle.__ray_call__.remote(function) for slot in population.slots])


def reserved(actor):
    """What Ray says a process has of GPUs, and the GPUs that CUDA would see there."""
    return round(ray.get_runtime_context().get_assigned_resources()["GPU"], 4), os.environ["CUDA_VISIBLE_DEVICES"]
