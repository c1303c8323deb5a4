"""What the tests of algorithms play: rounds in this process, small networks, linear regression in closed form."""

from functools import cached_property
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from small_data import make_dataset, make_recipe
from torch import nn

from fedray.algorithms.fedavg import FedAvg
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import play_rounds
from fedray.training.batches import draw_batches
from fedray.training.in_process import InProcessPopulation
from fedray.training.trainer import Trainer


def play(algorithm, dataset, shards, rounds, *, model="lenet5", cohort=None, blocks=2, engine="plain", start=None):
    """The rounds, and the population that played them; from the params `start` instead of the model's own, if given."""
    recipe = make_recipe(dataset, model, engine=engine)
    population = InProcessPopulation(dataset, shards, recipe, blocks)
    params, buffers = initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))
    state = algorithm.init(params if start is None else start, buffers)
    cohort = cohort or len(shards)
    ts = range(1, rounds + 1)
    return list(play_rounds(algorithm, population, state, ts=ts, rounds=rounds, cohort=cohort, seed=3)), population


def inputs(dataset, rows):
    x = torch.from_numpy(dataset.train_images[rows]).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.mean, dataset.std))
    return (x - mean) / std, torch.from_numpy(dataset.train_labels[rows])


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()


def fresh(dataset, model="lenet5"):
    recipe = make_recipe(dataset, model)
    return build(recipe.model, recipe.shape, recipe.classes, recipe.seed)


def with_batchnorm(shape, classes):
    """A network with buffers, small enough to be played by the dozen; put in the place of one that has a name."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(shape), 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, classes)
    )  # fmt: skip


def with_dropout(shape, classes):
    """The same with dropout, whose masks show whether a client draws random numbers that FedAvg's does not."""
    *body, last = with_batchnorm(shape, classes)
    return nn.Sequential(*body, nn.Dropout(0.25), last)


class SquaredError:
    """Linear regression on one-hot targets: half the squared error."""

    def loss(self, output, targets):
        return 0.5 * (output - F.one_hot(targets, output.shape[1])).square().sum(1).mean()


def squared(kind: type[FedAvg]) -> type[FedAvg]:
    """An algorithm with that loss."""
    return type(f"Squared{kind.__name__}", (SquaredError, kind), {})


class Regression:
    """Clients with linear regressions of four unknowns a class: F_k(w) = |X_k w - Y_k|^2 / (2 n_k), all in float64.

    w is [4, classes], the intercept last. Shards are unequal and, unless `rows` names their examples, sorted by label.
    """

    def __init__(self, sizes, rows=None):
        self.dataset = make_dataset(train=96, test=10, classes=3, side=1)
        by_label = np.argsort(self.dataset.train_labels, kind="stable")
        self.shards = rows or np.split(by_label[: sum(sizes)], np.cumsum(sizes)[:-1])
        data = [self.design(*inputs(self.dataset, shard)) for shard in self.shards]
        self.hessians = [x.T @ x / len(x) for x, _ in data]
        self.slopes = [x.T @ y / len(x) for x, y in data]

    def design(self, x, y):
        """A batch as a design matrix [n, 4] and one-hot targets [n, classes]."""
        return np.hstack([x.flatten(1).double().numpy(), np.ones((len(y), 1))]), np.eye(3)[y.numpy()]

    def gradient(self, k, w):
        """grad F_k(w), on the whole shard."""
        return self.hessians[k] @ w - self.slopes[k]

    def batches(self, algorithm, k, t):
        """The batches of client k in round t, each as a design matrix and targets, in the engine's order."""
        data = self.dataset.train_images[self.shards[k]], self.dataset.train_labels[self.shards[k]]
        return [self.design(x, y) for x, y in draw_batches(self.trainer.network, algorithm, k, *data, t)]

    @cached_property
    def trainer(self):
        return Trainer(make_recipe(self.dataset, "logistic"))

    @property
    def start(self):
        return self.matrix(flat(fresh(self.dataset, "logistic")))

    def weights(self, weighting):
        """The p_k of all clients, which add up to 1."""
        sizes = np.array([len(shard) for shard in self.shards], float)
        return sizes / sizes.sum() if weighting == "num_examples" else np.full(len(sizes), 1 / len(sizes))

    @staticmethod
    def matrix(vector):
        """w from params [P]: Linear's weight [classes, 3], then its bias."""
        return np.vstack([vector[:9].reshape(3, 3).T, vector[9:]]).astype(float)

    @staticmethod
    def vector(w):
        return np.concatenate([w[:-1].T.ravel(), w[-1]])

    def play(self, kind, rounds, *, cohort=None, engine="plain", start=None, **settings):
        """The rounds of an algorithm of these settings on this problem, from w `start` if given, and the population."""
        algorithm, start = squared(kind)(**settings), start if start is None else np.float32(self.vector(start))
        how = {"model": "logistic", "cohort": cohort, "engine": engine, "start": start}
        return play(algorithm, self.dataset, self.shards, rounds, **how)
