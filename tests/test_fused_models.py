"""The fused engine against the plain one for every model without BatchNorm, and the ways in which it can compute."""

import dataclasses

import numpy as np
import pytest
from small_data import make_dataset, make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.in_process import InProcessPopulation
from fedray.models import KNOWN
from fedray.networks import build, initial_vectors
from fedray.server import play_rounds

# A shard with a rest, one that is smaller than a batch, and one with more steps than the others.
SHARDS = [np.arange(0, 6), np.arange(6, 9), np.arange(9, 18)]
LARGE = {"alexnet", "vgg16", "vgg19"}


def play(engine, model, *, algorithm=None, shards=SHARDS, rounds=2, augment="crop-flip", chunk_size=None, **settings):
    """The state before, the state and the reports of each round."""
    dataset = make_dataset(train=18, test=6, validation=0)
    algorithm = algorithm or FedAvg(lr=0.01, momentum=0.5, weight_decay=1e-3, clip_norm=5.0, batch_size=4)
    recipe = dataclasses.replace(make_recipe(dataset, model, augment, engine=engine, **settings), chunk_size=chunk_size)
    population = InProcessPopulation(dataset, shards, recipe, 1)
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    done = play_rounds(algorithm, population, state, ts=range(1, rounds + 1), rounds=rounds, cohort=len(shards), seed=5)
    return state["params"], [(d.state["params"], d.updates.reports) for d in done]


def assert_agree(model, tolerance=1e-3, **settings):
    """Params after each round differ by little of how far they moved, and the losses by less."""
    start, plain = play("plain", model, **settings)
    _, fused = play("fused", model, **settings)
    for (params, reports), (expected, expected_reports) in zip(fused, plain, strict=True):
        assert np.linalg.norm(params - expected) < tolerance * np.linalg.norm(expected - start)
        for report, other in zip(reports, expected_reports, strict=True):
            assert (report.client, report.steps, report.status) == (other.client, other.steps, "ok")
            assert report.train_loss == pytest.approx(other.train_loss, rel=tolerance)
            assert report.update_norm == pytest.approx(other.update_norm, rel=tolerance)


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in LARGE])
def test_every_model_trains_as_in_the_plain_engine(name):
    assert_agree(name, **({"norm": "group"} if KNOWN[name].norms else {}))


@pytest.mark.parametrize("name", sorted(LARGE))
def test_every_large_model_does(name):
    """Two clients of one and of two steps, because each of their vectors is some hundred megabytes."""
    assert_agree(name, shards=[np.arange(0, 2), np.arange(2, 6)], algorithm=FedAvg(lr=0.01, batch_size=2), rounds=2)
