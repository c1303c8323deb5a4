"""Feature skew is the same in process and on Ray, packed or with an actor for each client, and leaves the server be."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from client_scores import ALGORITHMS, DATASET, OWN_TESTS, SHARDS, evaluated, on_ray
from small_data import make_recipe

from fedray.data.skew import Skew
from fedray.models.build import build, initial_vectors
from fedray.training.in_process import InProcessPopulation

PLAIN = dataclasses.replace(make_recipe(DATASET, "logistic"), clients=len(SHARDS))
RECIPES = {
    "plain": dataclasses.replace(PLAIN, skew=Skew(noise=0.1, rotation=40, colour=0.4)),
    "fused": dataclasses.replace(PLAIN, skew=Skew(noise=0.1, rotation=40, colour=0.4), engine="fused"),
}


@cache
def here(name):
    return evaluated(in_process(RECIPES[name]), ALGORITHMS["finetune"], RECIPES[name])


def in_process(recipe):
    return InProcessPopulation(DATASET, SHARDS, recipe, 2, OWN_TESTS)


@pytest.mark.parametrize("engine", RECIPES)
@pytest.mark.parametrize("clients_per_actor", [3, 1], ids=["packed", "an actor per client"])
def test_ray_gives_the_bits_of_one_process(session, clients_per_actor, engine):
    """What clients learn, and how they do on test images of their own."""
    population = on_ray(session, RECIPES[engine], clients_per_actor)
    assert evaluated(population, ALGORITHMS["finetune"], RECIPES[engine]) == here(engine)
    population.close()


def test_both_the_shard_and_the_own_test_images_are_skewed():
    skewed, plain = in_process(RECIPES["plain"]), in_process(PLAIN)
    for client, (rows, own) in enumerate(zip(SHARDS, OWN_TESTS, strict=True)):
        for images, before in (
            (skewed.shards.of(client), DATASET.train_images[rows]),
            (skewed.tests.of(client), DATASET.test_images[own]),
        ):
            assert images[0].shape == before.shape
            assert not np.array_equal(images[0], before)
        assert np.array_equal(plain.shards.of(client)[0], DATASET.train_images[rows])
        assert np.array_equal(plain.tests.of(client)[0], DATASET.test_images[own])
        assert np.array_equal(skewed.shards.of(client)[1], plain.shards.of(client)[1])
    assert here("plain") != evaluated(plain, ALGORITHMS["finetune"], PLAIN)


def test_clients_see_the_same_in_any_order():
    one, other = in_process(RECIPES["plain"]), in_process(RECIPES["plain"])
    forwards = {client: one.shards.of(client)[0].tobytes() for client in range(len(SHARDS))}
    backwards = {client: other.shards.of(client)[0].tobytes() for client in reversed(range(len(SHARDS)))}
    assert forwards == backwards


def test_the_servers_test_set_stays_as_it_is():
    params, buffers = initial_vectors(build(PLAIN.model, PLAIN.shape, PLAIN.classes, PLAIN.seed))
    state = {"params": params, "buffers": buffers}
    plain, skewed = (in_process(recipe).evaluate(state) for recipe in (PLAIN, RECIPES["plain"]))
    assert (plain.loss, plain.accuracy) == (skewed.loss, skewed.accuracy)
    assert (plain.confusion == skewed.confusion).all()
