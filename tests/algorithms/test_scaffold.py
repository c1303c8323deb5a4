"""SCAFFOLD by hand, and what its control variates are."""

import numpy as np
import pytest
import torch
from playing import Regression, play

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.scaffold import Scaffold

SIZES = (6, 10, 18, 27, 35)
LOCAL = {"lr": 0.1, "steps": 4, "batch_size": 0}


def test_one_step_and_option_ii_by_hand():
    """With c = 0.5 and c_i = 2: a gradient of 3 becomes 3 - 2 + 0.5 = 1.5.

    Four steps of lr 0.25 from x = 2 to y = 1 have (x - y) / (K lr) = 1, so c_i+ = 2 - 0.5 + 1 = 2.5; the client sends
    y - x = -1 and c_i+ - c_i = 0.5. Two clients at a time: the second took two steps, so (x - y) / (K lr) = 2.
    """
    message, memory = {"params": torch.tensor([2.0]), "c": torch.tensor([0.5])}, {"c_i": torch.tensor([2.0])}
    scaffold = Scaffold()
    assert scaffold.correct(torch.tensor([3.0]), torch.tensor([7.0]), message, memory, 0.25).tolist() == [1.5]
    update, renewed = scaffold.finish(message["params"], torch.tensor([1.0]), 4, 0.25, message, memory)
    assert {name: vector.tolist() for name, vector in update.items()} == {"params": [-1], "c": [0.5]}
    assert renewed["c_i"].tolist() == [2.5]
    steps, memories = torch.tensor([[4.0], [2.0]]), {"c_i": torch.tensor([[2.0], [2.0]])}
    _, renewed = scaffold.finish(torch.full((2, 1), 2.0), torch.ones(2, 1), steps, 0.25, message, memories)
    assert renewed["c_i"].tolist() == [[2.5], [3.5]]


def test_momentum_makes_of_three_steps_four_and_a_quarter_by_hand():
    """rho = 0.5: gradients of 1 move by 1, 1.5 and 1.75 lr, 4.25 together. With lr = 2/17 that is 0.5.

    So from x = 2 to y = 1 the mean direction is 1 / 0.5 = 2, and c_i+ = 2 - 0.5 + 2 = 3.5.
    """
    message, memory = {"c": torch.tensor([0.5])}, {"c_i": torch.tensor([2.0])}
    _, renewed = Scaffold(momentum=0.5).finish(torch.tensor([2.0]), torch.tensor([1.0]), 3, 2 / 17, message, memory)
    assert renewed["c_i"].tolist() == pytest.approx([3.5])


def test_the_server_by_hand():
    """x <- 2 + 0.5 * (-1) = 1.5, and one client of four, so c <- 0.5 + 1/4 * 3 = 1.25: no server_lr in it."""
    state = {name: np.array([v], np.float32) for name, v in {"params": 2, "c": 0.5, "buffers": 0}.items()}
    mean = {name: np.array([v], np.float32) for name, v in {"params": -1, "c": 3, "buffers": 0}.items()}
    after = Scaffold(server_lr=0.5).server_update(state, mean, 0.25)
    assert {name: vector.tolist() for name, vector in after.items()} == {"params": [1.5], "c": [1.25], "buffers": [0]}
    assert after["c"].dtype == np.float32


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("weighting", ["num_examples", "uniform"])
def test_c_stays_the_mean_of_all_the_clients_own(option, weighting):
    """Also of those that did not take part, in every round; with the weights of all clients, not of the cohort."""
    regression = Regression(SIZES)
    done, population = regression.play(
        Scaffold, 4, cohort=2, option=option, weighting=weighting, server_lr=0.8, momentum=0.5, **LOCAL
    )
    p, memories = regression.weights(weighting), dict(population.memories(4))
    assert 2 < len(memories) <= 5
    mean = sum(p[k] * memory["c_i"] for k, memory in memories.items())
    np.testing.assert_allclose(done[-1].state["c"], mean, rtol=0, atol=1e-6)
    assert np.abs(mean).max() > 0.01


def test_the_first_rounds_c_is_the_cohorts_sum_over_all_clients():
    """|S|/N literally: 2 of 5 clients, c = (c_a + c_b) / 5."""
    done, population = Regression(SIZES).play(Scaffold, 1, cohort=2, weighting="uniform", **LOCAL)
    first, second = (memory["c_i"] for _, memory in population.memories(1))
    np.testing.assert_allclose(done[0].state["c"], (first + second) / 5, rtol=0, atol=1e-7)


def test_option_i_is_the_gradient_of_the_shard_at_the_rounds_model_and_option_ii_the_mean_along_the_way():
    """In round 1, with c = c_i = 0: option II's is (x - y) / (K lr), the mean of the gradients at x and after x."""
    regression = Regression(SIZES)
    for option in ("I", "II"):
        _, population = regression.play(Scaffold, 1, option=option, **LOCAL)
        for k, memory in population.memories(1):
            y, seen = regression.start, []
            for _ in range(4):
                seen.append(regression.gradient(k, y))
                y = y - 0.1 * seen[-1]
            expected = seen[0] if option == "I" else np.mean(seen, 0)
            np.testing.assert_allclose(memory["c_i"], regression.vector(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch_size", [0, 7])
def test_option_i_passes_over_the_whole_shard_whatever_the_batch_size(batch_size):
    regression = Regression(SIZES)
    settings = {"option": "I", "lr": 0.1, "batch_size": batch_size}
    _, population = regression.play(Scaffold, 1, **settings)
    for k, memory in population.memories(1):
        expected = regression.vector(regression.gradient(k, regression.start))
        np.testing.assert_allclose(memory["c_i"], expected, rtol=0, atol=1e-6)


def test_one_step_of_everyone_is_gradient_descent():
    """The control variates of all clients cancel: sum_i p_i (c - c_i) = 0."""
    regression = Regression(SIZES)
    done, _ = regression.play(Scaffold, 5, lr=0.1, steps=1, batch_size=0)
    w = regression.start
    for _ in range(5):
        gradients = [regression.gradient(k, w) for k in range(5)]
        w = w - 0.1 * sum(p * g for p, g in zip(regression.weights("num_examples"), gradients, strict=True))
    np.testing.assert_allclose(done[-1].state["params"], regression.vector(w), rtol=0, atol=1e-6)


def test_option_one_takes_the_whole_shard_also_what_training_drops(dataset):
    """c_i+ = grad f_i(x), of all 17 images, while each epoch trains on 12 of them. The whole shard's gradient is what
    FedAvg's update is, negated, after one step of all of it with lr 1."""
    shards = [np.arange(17), np.arange(20, 37)]
    settings = {"option": "I", "lr": 0.05, "batch_size": 6, "drop_last": True}
    _, population = play(Scaffold(**settings), dataset, shards, rounds=1)
    for client, memory in population.memories(1):
        alone, _ = play(FedAvg(lr=1.0, batch_size=0), dataset, [shards[client]], rounds=1)
        np.testing.assert_allclose(memory["c_i"], -alone[0].mean["params"], atol=1e-6)
