"""Balanced sampling: what is drawn, that it has addresses, and that both engines draw the same."""

import dataclasses

import numpy as np
import pytest
import torch
from small_data import make_recipe, make_values

from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import BadInputError
from fedray.core.randomness import generator
from fedray.experiment.composition import compose
from fedray.server.task import Task
from fedray.training.batches import draw_batches, draw_order
from fedray.training.fused.batches import Batches, share_of
from fedray.training.trainer import Trainer

DATASET = make_values("classes", (5,), outputs=4)
RECIPE = dataclasses.replace(make_recipe(DATASET, "logistic"), sampling="balanced")


def test_every_class_of_the_shard_is_as_likely_and_every_example_of_it():
    """Of 4000 draws from 1, 3 and 16 examples of three classes a third each, within 4 deviations of 30."""
    labels = np.repeat([7, 2, 0], [1, 3, 16])[np.random.default_rng(0).permutation(20)]
    draws = np.concatenate([draw_order(RECIPE, np.random.default_rng(i), labels) for i in range(200)])
    counts = np.bincount(labels[draws], minlength=8)
    assert counts.sum() == 4000
    assert np.flatnonzero(counts).tolist() == [0, 2, 7]
    assert np.abs(counts[[0, 2, 7]] - 4000 / 3).max() < 120
    of_two = np.bincount(draws)[np.flatnonzero(labels == 2)]
    assert np.abs(of_two - 4000 / 9).max() < 80
    assert (np.bincount(draws, minlength=20) > 0).all()


def test_shuffled_is_the_permutation_that_it_was():
    recipe = dataclasses.replace(RECIPE, sampling="shuffle")
    here = draw_order(recipe, generator(3, "shuffle", t=1, client=2), np.zeros(9, np.int64))
    assert here.tolist() == generator(3, "shuffle", t=1, client=2).permutation(9).tolist()


def test_both_engines_draw_the_same_examples():
    """Two clients, two epochs, in batches with a rest; an epoch of one is not that of another."""
    algorithm, trainer = FedAvg(batch_size=8, epochs=2), Trainer(RECIPE)
    shards = {0: slice(0, 21), 3: slice(30, 51)}
    task = Task(algorithm, {}, 2, 0.1)
    parts = {client: (DATASET.train_images[rows], DATASET.train_labels[rows]) for client, rows in shards.items()}
    shares = [
        share_of(task, RECIPE.seed, i, client, *part, {}, lambda size, _: size)
        for i, (client, part) in enumerate(parts.items())
    ]
    fused = Batches(RECIPE, shares, task, "cpu", 2, 0)
    orders = []
    for i, (client, part) in enumerate(parts.items()):
        plain = list(draw_batches(trainer.network, algorithm, client, *part, 2))
        assert [len(y) for _, y in plain] == [8, 8, 5] * 2
        for step, (x, y) in enumerate(plain):
            batch = fused.at(step, 2)
            assert torch.equal(batch.pixels[i, : len(y)], x)
            assert torch.equal(batch.targets[i, : len(y)], y)
        orders += [torch.cat([x for x, _ in plain[first : first + 3]]).numpy().tobytes() for first in (0, 3)]
    assert len(set(orders)) == 4


def test_a_call_made_again_draws_the_same_and_a_repeated_round_anew():
    part = DATASET.train_images[:20], DATASET.train_labels[:20]
    trainer = Trainer(RECIPE)
    first, again, repeated = (
        torch.cat([x for x, _ in draw_batches(trainer.network, FedAvg(), 0, *part, 1, attempt=attempt)])
        for attempt in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, repeated)


def test_scaffolds_option_with_a_pass_over_the_shard_is_refused():
    settings = {"data": {"sampling": "balanced"}, "algorithm": {"name": "scaffold", "option": "I"}}
    with pytest.raises(BadInputError, match="data.sampling = balanced .* scaffold with algorithm.option = I"):
        compose(settings)
    settings["algorithm"]["option"] = "II"
    assert compose(settings).data.sampling == "balanced"
