"""FedAvg against plain arithmetic: laws 2 and 3, a step by hand, the weightings and the schedules."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playing import flat, fresh, inputs, play, squared
from small_data import make_dataset, make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.core.updates import Updates, WeightedSum
from fedray.models.build import initial_vectors
from fedray.server.aggregators import Mean
from fedray.server.task import Task
from fedray.training.batches import draw_batches
from fedray.training.trainer import Trainer


def test_one_client_is_centralised_sgd(dataset):
    """Law 3: two rounds of three epochs of one client that holds everything are torch.optim.SGD on the same batches."""
    rows = np.arange(70)
    algorithm = FedAvg(lr=0.1, momentum=0.9, weight_decay=0.01, epochs=3, batch_size=16)
    done, population = play(algorithm, dataset, [rows], rounds=2)
    module = fresh(dataset)
    for t in (1, 2):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for x, y in draw_batches(
            population.trainer.network, algorithm, 0, dataset.train_images[rows], dataset.train_labels[rows], t
        ):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
    np.testing.assert_allclose(done[-1].state["params"], flat(module), atol=2e-6)
    assert np.abs(flat(module) - flat(fresh(dataset))).max() > 0.01


def test_batches_are_the_normalised_shard_in_another_order_each_epoch(dataset):
    rows = np.arange(20)
    trainer = Trainer(make_recipe(dataset))
    algorithm = FedAvg(epochs=2, batch_size=8)
    batches = list(
        draw_batches(trainer.network, algorithm, 4, dataset.train_images[rows], dataset.train_labels[rows], 1)
    )
    assert [len(y) for _, y in batches] == [8, 8, 4] * 2
    x, y = inputs(dataset, rows)
    epochs = [torch.cat([b[0] for b in batches[i : i + 3]]) for i in (0, 3)]
    for seen in epochs:
        order = [int(((x - image).abs().amax((1, 2, 3)) < 1e-5).nonzero()) for image in seen]
        assert sorted(order) == list(range(20))
    assert not torch.equal(*epochs)
    assert sorted(torch.cat([b[1] for b in batches[:3]]).tolist()) == sorted(y.tolist())


def test_steps_replace_epochs_and_drop_last_drops(dataset):
    trainer = Trainer(make_recipe(dataset))
    data = (dataset.train_images[:20], dataset.train_labels[:20])

    def sizes(**settings):
        return [len(y) for _, y in draw_batches(trainer.network, FedAvg(**settings), 0, *data, 1)]

    assert sizes(steps=5, batch_size=8) == [8, 8, 4, 8, 8]
    assert sizes(steps=5, batch_size=8, drop_last=True) == [8] * 5
    assert sizes(epochs=2, batch_size=8, drop_last=True) == [8] * 4
    assert sizes(epochs=2, batch_size=0) == [20, 20]


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_full_batch_single_step_is_gradient_descent_on_the_union(dataset, engine):
    """Law 3, on logistic regression with unequal shards, weighted by examples: pooled gradient descent to 1e-5."""
    shards = [np.arange(0, 10), np.arange(10, 45), np.arange(45, 96)]
    done, _ = play(FedAvg(lr=0.02, batch_size=0), dataset, shards, rounds=4, model="logistic", engine=engine)
    module = fresh(dataset, "logistic")
    x, y = inputs(dataset, np.arange(96))
    for _ in range(4):
        grads = torch.autograd.grad(F.cross_entropy(module(x), y), list(module.parameters()))
        with torch.no_grad():
            for p, g in zip(module.parameters(), grads, strict=True):
                p -= 0.02 * g
    np.testing.assert_allclose(done[-1].state["params"], flat(module), atol=1e-5)


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_linear_regression_equals_the_closed_form_of_pooled_gradient_descent(dataset, engine):
    """w <- w - lr/n X'(Xw - Y) over all rows, in float64 NumPy."""
    shards = [np.arange(0, 30), np.arange(30, 50), np.arange(50, 96)]
    algorithm = squared(FedAvg)(lr=5e-4, batch_size=0)
    done, _ = play(algorithm, dataset, shards, rounds=20, model="logistic", engine=engine)
    x, y = inputs(dataset, np.arange(96))
    design = np.hstack([x.flatten(1).double().numpy(), np.ones((96, 1))])
    targets = np.eye(10)[y.numpy()]
    module = fresh(dataset, "logistic")
    w = np.vstack([module[1].weight.detach().double().numpy().T, module[1].bias.detach().double().numpy()])
    first = w.copy()
    for _ in range(20):
        w -= 5e-4 / 96 * design.T @ (design @ w - targets)
    np.testing.assert_allclose(done[-1].state["params"], np.concatenate([w[:-1].T.ravel(), w[-1]]), atol=1e-5)
    assert np.abs(w - first).max() > 3e-3


def test_one_round_by_hand():
    """Two clients with n = 1 and 3, updates (2, -1) and (4, 3): the mean is (3.5, 2), uniform (3, 1), the sum (6, 2).

    From params (1, 1) with server_lr 0.5: (2.75, 2), (2.5, 1.5) and (4, 2). Buffers follow the mean itself, but the sum
    is scaled with the parameters: 0.5 * 6 = 3.
    """
    updates = [np.array([2, -1], np.float32), np.array([4, 3], np.float32)]
    expected = {"num_examples": [2.75, 2], "uniform": [2.5, 1.5], "sum": [4, 2]}
    buffers = {"num_examples": 3.5, "uniform": 3, "sum": 3}
    for weighting, params in expected.items():
        algorithm, total = FedAvg(weighting=weighting, server_lr=0.5), WeightedSum()
        for vector, n in zip(updates, (1, 3), strict=True):
            total.add_update({"params": vector, "buffers": vector[:1]}, algorithm.weight(n))
        mean = Mean().aggregate(Updates(total, []), algorithm.denominator(total.weight))
        state = algorithm.server_update({"params": np.ones(2, np.float32), "buffers": np.zeros(1, np.float32)}, mean, 1)
        assert state["params"].tolist() == params
        assert state["buffers"].tolist() == [buffers[weighting]]
        assert state["params"].dtype == np.float32


def test_a_round_is_the_weighted_mean_of_what_each_client_does_alone(dataset):
    shards = [np.arange(0, 8), np.arange(8, 32), np.arange(32, 96)]
    algorithm = FedAvg(lr=0.05, batch_size=8, momentum=0.5)
    done, population = play(algorithm, dataset, shards, rounds=1)
    start = algorithm.init(*initial_vectors(fresh(dataset)))
    alone = []
    for client in range(3):
        images, labels = population.shards.of(client)
        alone.append(population.trainer.train(Task(algorithm, start, 1, 0.05), client, images, labels, {})[0]["params"])
    mean = sum(np.float64(len(s)) * u for s, u in zip(shards, alone, strict=True)) / 96
    np.testing.assert_allclose(done[0].state["params"], start["params"] + mean, atol=1e-6)
    assert len({u.tobytes() for u in alone}) == 3


def test_learning_rate_schedules():
    rates = {
        "constant": [0.8] * 4,
        "cosine": [0.4 * (1 + math.cos(math.pi * k / 4)) for k in range(4)],
        "step": [0.8, 0.8, 0.4, 0.4],
        "exponential": [0.8, 0.4, 0.2, 0.1],
    }
    for schedule, expected in rates.items():
        algorithm = FedAvg(lr=0.8, lr_schedule=schedule, lr_decay=0.5, lr_decay_every=2)
        assert [algorithm.learning_rate(t, 4) for t in range(1, 5)] == pytest.approx(expected)


def test_the_rounds_learning_rate_is_used(dataset):
    shards = [np.arange(96)]
    constant, _ = play(FedAvg(lr=0.1, batch_size=0), dataset, shards, rounds=2)
    falling, _ = play(FedAvg(lr=0.1, batch_size=0, lr_schedule="exponential", lr_decay=0.5), dataset, shards, rounds=2)
    assert falling[1].lr == 0.05
    norms = [np.linalg.norm(done[1].mean["params"]) for done in (constant, falling)]
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-3)


def test_batchnorm_statistics_travel_with_the_same_weights():
    dataset = make_dataset(train=24, test=10)
    shards = [np.arange(0, 8), np.arange(8, 24)]
    algorithm = FedAvg(lr=1e-3, batch_size=8)
    done, population = play(algorithm, dataset, shards, rounds=1, model="resnet18")
    start = algorithm.init(*initial_vectors(fresh(dataset, "resnet18")))
    alone = []
    for client in range(2):
        images, labels = population.shards.of(client)
        alone.append(
            population.trainer.train(Task(algorithm, start, 1, 1e-3), client, images, labels, {})[0]["buffers"]
        )
    np.testing.assert_allclose(done[0].state["buffers"] - start["buffers"], alone[0] / 3 + alone[1] * 2 / 3, atol=1e-5)
    module = fresh(dataset, "resnet18").train()  # client 0 makes one step, whose forward pass moves the statistics
    module(next(draw_batches(population.trainer.network, algorithm, 0, *population.shards.of(0), 1))[0])
    buffers = torch.cat([b.flatten() for b in module.buffers() if b.is_floating_point()]).numpy()
    np.testing.assert_allclose(alone[0], buffers - start["buffers"], atol=1e-5)
    assert np.abs(alone[0]).max() > 1e-3


def test_dropout_is_addressed_and_leaves_torchs_own_generator_alone(dataset):
    """The same masks whatever torch's generator was at, other masks in another round, none in evaluation."""
    algorithm = FedAvg(lr=0.05, batch_size=0)
    shards = [np.arange(96)]
    bits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        done, population = play(algorithm, dataset, shards, rounds=1, model="cnn")
        bits.append(done[0].state["params"].tobytes())
        after = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(after, torch.rand(3))
    assert bits[0] == bits[1]
    start = algorithm.init(*initial_vectors(fresh(dataset, "cnn")))
    losses = [
        population.trainer.train(Task(algorithm, start, t, 0.05), 0, *population.shards.of(0), {})[2].train_loss
        for t in (1, 2)
    ]
    assert abs(losses[0] - losses[1]) > 1e-4
    x, y = (torch.from_numpy(a) for a in (dataset.test_images, dataset.test_labels))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.mean, dataset.std))
    with torch.no_grad():
        loss = F.cross_entropy(fresh(dataset, "cnn").eval()((x.float() / 255 - mean) / std), y)
    assert population.evaluate(start).loss == pytest.approx(float(loss), rel=1e-5)
