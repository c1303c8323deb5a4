"""How the server's model is evaluated: loss, accuracy, the k best labels, and which labels are taken for which."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import bits_of, make_dataset, make_recipe

from fedray.core.scores import Measured, performance
from fedray.models.build import build
from fedray.training.in_process import InProcessPopulation
from fedray.training.spec import EVALUATION_BATCH


def test_the_parts_of_a_split_are_put_together_by_hand():
    """Of two images of class 0 one is taken for 1; of three of class 2 one is taken for 0."""
    labels = np.array([0, 0, 1, 2, 2, 2])
    parts = [Measured([1.0, 2.0], np.array([0, 1, 1], np.int16), 2), Measured([4.5], np.array([0, 2, 2], np.int16), 3)]
    found = performance(parts, labels, 4)
    assert found.confusion.dtype == np.int64
    assert found.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert (found.loss, found.accuracy, found.top_k_accuracy) == (7.5 / 6, 4 / 6, 5 / 6)
    without = [Measured(part.losses, part.predicted) for part in parts]
    assert performance(without, labels, 4).top_k_accuracy is None


def test_it_is_the_same_bits_however_the_split_was_cut():
    """Sums of losses would not be, if they were rounded on the way."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 40)
    predicted, losses = rng.integers(0, 10, 40).astype(np.int16), [0.1, 1e16, -1e16, 0.3]
    whole = bits_of(performance([Measured(losses, predicted, 4)], labels, 10))
    assert whole[0] == 0.4 / 40
    each = [Measured([losses[i]], predicted[10 * i : 10 * i + 10], 1) for i in range(4)]
    assert bits_of(performance(each, labels, 10)) == whole


@pytest.fixture(scope="module")
def population():
    return population_of(make_dataset(train=20, test=230, classes=7))


def population_of(dataset, model="lenet5"):
    return InProcessPopulation(dataset, [np.arange(20)], make_recipe(dataset, model), 1)


def test_an_evaluation_is_that_of_plain_pytorch(population):
    """The loss within rounding; labels and the k best as torch's own functions say."""
    data, recipe = population.dataset, population.trainer.recipe
    state = population.trainer.arrays(population.trainer.network.initial)
    module = build(recipe.model, recipe.shape, recipe.classes, recipe.seed).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    for split in ("test", "validation"):
        images, labels = data.examples(split)
        sums, outputs = [], []
        for first in range(0, len(labels), EVALUATION_BATCH):
            batch = slice(first, first + EVALUATION_BATCH)
            with torch.inference_mode():
                outputs.append(module((torch.from_numpy(images[batch]).float() / 255 - mean) / std))
            targets = torch.from_numpy(labels[batch])
            sums.append(float(F.cross_entropy(outputs[-1], targets, reduction="none").double().sum()))
        scores = torch.cat(outputs)
        predicted = scores.argmax(1).numpy()
        found = population.evaluate(state, split, 3)
        assert found.loss == pytest.approx(math.fsum(sums) / len(labels), rel=1e-6)
        assert found.accuracy == (predicted == labels).mean()
        expected = np.zeros((7, 7), np.int64)
        np.add.at(expected, (labels, predicted), 1)
        assert found.confusion.tolist() == expected.tolist()
        best_three = scores.topk(3).indices.numpy()
        assert found.top_k_accuracy == (best_three == labels[:, None]).any(1).mean()
        assert 0 < found.accuracy < found.top_k_accuracy < 1
        assert population.evaluate(state, split).top_k_accuracy is None


def biases(*values):
    """A logistic model whose scores are these, whatever the image."""
    weights = np.zeros(len(values) * 3 * 4 * 4, np.float32)
    return {"params": np.concatenate([weights, np.float32(values)]), "buffers": np.zeros(0, np.float32)}


def test_a_label_is_among_the_k_best_where_fewer_than_k_rank_before_it():
    """Of equals the first, as in the accuracy; an image whose scores are no numbers is right in no guess."""
    dataset = make_dataset(train=20, test=300, classes=4, side=4)
    population, share = population_of(dataset, "logistic"), np.bincount(dataset.test_labels, minlength=4) / 300
    scores = biases(1.0, 1.0, 0.0, 2.0)
    for k, among in ((1, [3]), (2, [3, 0]), (3, [3, 0, 1]), (4, [0, 1, 2, 3])):
        found = population.evaluate(scores, top_k=k)
        assert found.top_k_accuracy == pytest.approx(share[among].sum())
    assert found.accuracy == pytest.approx(share[3])
    for endless in (math.inf, -math.inf, 0.0):
        assert population.evaluate(biases(*[endless] * 4), top_k=3).top_k_accuracy == pytest.approx(share[:3].sum())
    assert population.evaluate(biases(math.nan, 1.0, 0.0, 0.0), top_k=1).top_k_accuracy == 0.0
    assert population.evaluate(biases(math.nan, math.nan, math.nan, math.nan), top_k=3).top_k_accuracy == 0.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_best_one_of_the_k_best_is_the_accuracy(precision):
    """However many scores are equal: here they are rounded to few values, by the model's precision or the weights."""
    dataset = make_dataset(train=20, test=600, classes=7)
    recipe = make_recipe(dataset, "logistic", precision=precision)
    population = InProcessPopulation(dataset, [np.arange(20)], recipe, 1)
    state = population.trainer.arrays(population.trainer.network.initial)
    for params in (state["params"], state["params"] * 0, np.float32(state["params"].round(2) == 0)):
        found = population.evaluate({**state, "params": params}, top_k=1)
        assert found.top_k_accuracy == found.accuracy > 0
