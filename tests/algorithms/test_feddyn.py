"""FedDyn by hand, and what its h and g_k are."""

import numpy as np
import pytest
import torch
from playing import Regression, play

from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fedprox import FedProx

SIZES = (6, 10, 18, 27, 35)
LOCAL = {"lr": 0.1, "steps": 4, "batch_size": 0}


def test_a_client_by_hand():
    """alpha = 0.5, w_t = 2, g_k = 1: at w = 3 a gradient of 4 becomes 4 - 1 + 0.5 (3 - 2) = 3.5.

    A client that ends at 3 has g_k <- 1 - 0.5 (3 - 2) = 0.5, and sends 1.
    """
    message, memory = {"params": torch.tensor([2.0])}, {"g_k": torch.tensor([1.0])}
    feddyn, end = FedDyn(alpha=0.5), torch.tensor([3.0])
    assert feddyn.correct(torch.tensor([4.0]), end, message, memory, 0.1).tolist() == [3.5]
    update, renewed = feddyn.finish(message["params"], end, 7, 0.1, message, memory)
    assert update["params"].tolist() == [1]
    assert renewed["g_k"].tolist() == [0.5]


def test_the_server_by_hand():
    """alpha = 0.5, half of all clients, which moved by 1 on average from 2, h = 0.5.

    h <- 0.5 - 0.5 * 1/2 * 1 = 0.25, w <- (2 + 1) - 0.25 / 0.5 = 2.5, with the h of this round.
    """
    state = {name: np.array([v], np.float32) for name, v in {"params": 2, "h": 0.5, "buffers": 1}.items()}
    mean = {name: np.array([v], np.float32) for name, v in {"params": 1, "buffers": 4}.items()}
    after = FedDyn(alpha=0.5).server_update(state, mean, 0.5)
    assert {name: vector.tolist() for name, vector in after.items()} == {"params": [2.5], "h": [0.25], "buffers": [5]}
    assert after["h"].dtype == after["params"].dtype == np.float32


@pytest.mark.parametrize("weighting", ["num_examples", "uniform"])
def test_h_stays_the_mean_of_all_the_clients_gradients(weighting):
    """Also of those that did not take part: h = sum_k p_k g_k, in every round, whatever server_lr is."""
    regression = Regression(SIZES)
    done, population = regression.play(FedDyn, 4, cohort=2, weighting=weighting, alpha=0.5, server_lr=0.8, **LOCAL)
    p, memories = regression.weights(weighting), dict(population.memories(4))
    assert 2 < len(memories) <= 5
    mean = sum(p[k] * memory["g_k"] for k, memory in memories.items())
    np.testing.assert_allclose(done[-1].state["h"], mean, rtol=0, atol=1e-6)
    assert np.abs(mean).max() > 0.01


def test_the_first_rounds_h_is_the_cohorts_sum_over_all_clients():
    """|S|/N literally: 2 of 5 clients, h = (g_a + g_b) / 5."""
    done, population = Regression(SIZES).play(FedDyn, 1, cohort=2, weighting="uniform", alpha=0.5, **LOCAL)
    first, second = (memory["g_k"] for _, memory in population.memories(1))
    np.testing.assert_allclose(done[0].state["h"], (first + second) / 5, rtol=0, atol=1e-7)


def test_in_the_first_round_its_clients_are_fedproxs(dataset):
    """g_k is 0, so that alpha is FedProx's mu, bit for bit; the server already goes further, by -h / alpha."""
    shards = [np.arange(0, 30), np.arange(30, 50), np.arange(50, 96)]
    settings = {"lr": 0.02, "batch_size": 8, "momentum": 0.5}
    (dyn, _), (prox, _) = (
        play(algorithm, dataset, shards, 1, model="logistic", cohort=2)
        for algorithm in (FedDyn(alpha=0.5, **settings), FedProx(mu=0.5, **settings))
    )
    assert dyn[0].mean["params"].tobytes() == prox[0].mean["params"].tobytes()
    share = sum(report.num_examples for report in dyn[0].updates.reports) / 96
    moved = dyn[0].state["params"] - prox[0].state["params"]
    np.testing.assert_allclose(moved, share * prox[0].mean["params"], rtol=0, atol=1e-6)


def test_minimised_exactly_g_k_is_the_clients_own_gradient():
    """At the minimum grad F_k(w) - g_k + alpha (w - w_t) = 0, so the new g_k is grad F_k(w_k): 400 steps come near."""
    regression = Regression(SIZES)
    done, population = regression.play(FedDyn, 2, cohort=5, alpha=0.5, lr=0.2, steps=200, batch_size=0)
    started = regression.matrix(done[0].state["params"])
    for k, memory in population.memories(2):
        before = np.linalg.solve(
            regression.hessians[k] + 0.5 * np.eye(4), regression.slopes[k] + 0.5 * regression.start
        )
        g_k = regression.gradient(k, before)
        w_k = np.linalg.solve(regression.hessians[k] + 0.5 * np.eye(4), regression.slopes[k] + g_k + 0.5 * started)
        expected = regression.vector(regression.gradient(k, w_k))
        np.testing.assert_allclose(memory["g_k"], expected, rtol=0, atol=5e-6)
        assert np.abs(expected).max() > 0.01
