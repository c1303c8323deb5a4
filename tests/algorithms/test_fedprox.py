"""FedProx by hand, and what a stronger pull does."""

import numpy as np
import pytest
import torch
from playing import Regression, play

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedprox import FedProx

SIZES = (6, 10, 18, 27, 35)


def test_two_local_steps_by_hand():
    """F(w) = w^2 / 2 from w_t = 4 with lr 0.5 and mu 1: grad F(4) = 4 and no pull, so w = 4 - 0.5 * 4 = 2.

    Then grad F(2) = 2 and the pull is 1 * (2 - 4) = -2, away from 0 and back to w_t: w stays 2, where FedAvg has 1.
    Under mu = 3 the second direction is 2 - 3 * 2 = -4, and w = 4 again.
    """
    message = {"params": torch.tensor([4.0])}
    for mu, expected in ((0.0, [2, 1]), (1.0, [2, 2]), (3.0, [2, 4])):
        w, path = message["params"], []
        for _ in range(2):
            w = w - 0.5 * FedProx(mu=mu).correct(w, w, message, {}, 0.5)
            path.append(w.item())
        assert path == expected


def test_the_direction_of_many_clients_is_that_of_each():
    """By hand: grad + mu (w - w_t) = (1, 2) + 0.5 ((3, 5) - (1, 1)) = (2, 4), beside a client that is at w_t."""
    message = {"params": torch.tensor([1.0, 1.0])}
    grad = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    params = torch.tensor([[3.0, 5.0], [1.0, 1.0]])
    assert FedProx(mu=0.5).correct(grad, params, message, {}, 0.1).tolist() == [[2, 4], [1, 2]]


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_the_stronger_the_pull_the_nearer_every_client_stays(engine):
    """Plain SGD on quadratics: the distance of each client to w_t falls with mu, and towards that of a single step."""
    regression = Regression(SIZES)
    first = {}
    for mu in (0.0, 0.1, 1.0, 5.0):
        done, _ = regression.play(FedProx, 1, engine=engine, lr=0.1, steps=6, batch_size=0, mu=mu)
        first[mu] = np.array([report.update_norm for report in done[0].updates.reports])
    assert all((first[less] > first[more] * 1.01).all() for less, more in ((0.0, 0.1), (0.1, 1.0), (1.0, 5.0)))
    done, _ = regression.play(FedAvg, 1, engine=engine, lr=0.1, steps=1, batch_size=0)
    assert (first[5.0] > [report.update_norm for report in done[0].updates.reports]).all()


def test_one_local_step_is_fedavgs_at_any_strength(dataset):
    """The pull is 0 at w_t, so that only a second step can tell."""
    shards = [np.arange(0, 30), np.arange(30, 50), np.arange(50, 96)]
    bits = {}
    for steps in (1, 2):
        for algorithm in (FedAvg(steps=steps), FedProx(steps=steps, mu=50.0)):
            done, _ = play(algorithm, dataset, shards, 3, model="logistic", cohort=2)
            bits[steps, algorithm.name] = done[-1].state["params"].tobytes()
    assert bits[1, "fedprox"] == bits[1, "fedavg"]
    assert bits[2, "fedprox"] != bits[2, "fedavg"]
