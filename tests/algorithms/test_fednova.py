"""FedNova and effective steps by hand, and what normalising does."""

import numpy as np
import pytest
import torch
from playing import Regression

from fedray.algorithms.effective_steps import effective_steps
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fednova import FedNova
from fedray.algorithms.fedprox import FedProx
from fedray.core.updates import Updates, WeightedSum
from fedray.server.aggregators import Mean

SIZES = (6, 10, 18, 27, 35)
UNEQUAL = {"lr": 0.1, "batch_size": 10, "epochs": 2}


def test_effective_steps_by_hand():
    """Three steps along gradients of 1, in units of lr.

    rho = 0: 1 + 1 + 1 = 3. rho = 0.5: speeds 1, 1.5 and 1.75, together 4.25.
    pull = lr mu = 0.5: 1, then 1 - 0.5 * 1 = 0.5, then 1 - 0.5 * 1.5 = 0.25, together 1.75.
    Both: speeds 1, then 0.5 * 1 + 1 - 0.5 * 1 = 1, then 0.5 * 1 + 1 - 0.5 * 2 = 0.5, together 2.5.
    """
    assert effective_steps(3, 0.0) == 3
    assert effective_steps(3, 0.5) == 4.25
    assert effective_steps(3, 0.0, 0.5) == 1.75
    assert effective_steps(3, 0.5, 0.5) == 2.5


@pytest.mark.parametrize("tau", [1, 2, 7, 40])
def test_effective_steps_are_the_papers_closed_forms(tau):
    for rho in (0.3, 0.9):
        expected = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        assert effective_steps(tau, rho) == pytest.approx(expected, rel=1e-12)
    assert effective_steps(tau, 0.0, 0.2) == pytest.approx((1 - 0.8**tau) / 0.2, rel=1e-12)
    assert effective_steps(tau, 0.0) == tau


@pytest.mark.parametrize(("momentum", "pull"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.25), (0.5, 0.25)])
def test_effective_steps_of_many_clients_are_those_of_each(momentum, pull):
    steps = torch.tensor([[3.0], [1.0], [8.0]])
    found = effective_steps(steps, momentum, pull)
    assert found.shape == (3, 1)
    assert found.dtype == torch.float32
    expected = [effective_steps(n, momentum, pull) for n in (3, 1, 8)]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_client_by_hand():
    """From 1 to 3 in four steps: 2 / 4 = 0.5 a step, tau 4. With rho = 0.5 and three steps, 2 / 4.25 and 4.25.

    With a pull of lr mu = 0.1 * 5 = 0.5, three steps go 1.75, so 2 / 1.75, but tau stays 3. By many clients likewise.
    """
    start, end = torch.tensor([1.0]), torch.tensor([3.0])
    for settings, steps, scaled, tau in (
        ({}, 4, 0.5, 4),
        ({"momentum": 0.5}, 3, 2 / 4.25, 4.25),
        ({"mu": 5.0}, 3, 2 / 1.75, 3),
        ({"mu": 5.0, "momentum": 0.5}, 3, 2 / 2.5, 4.25),
    ):
        for of in (1, 2):
            begun, ended = (start, end) if of == 1 else (start.expand(2, 1), end.expand(2, 1))
            made = steps if of == 1 else torch.full((2, 1), float(steps))
            update, memory = FedNova(**settings).finish(begun, ended, made, 0.1, {}, {})
            assert update["params"].flatten().tolist() == pytest.approx([scaled] * of)
            assert update["tau"].flatten().tolist() == pytest.approx([tau] * of)
            assert update["params"].shape == update["tau"].shape == ended.shape
            assert memory == {}


def test_a_round_by_hand():
    """Client a has 1 example and moved by -2 in 2 steps, b has 3 examples and moved by -2 in 4: -1 and -0.5 a step.

    By examples: (1 * -1 + 3 * -0.5) / 4 = -0.625 a step, tau_eff = (1 * 2 + 3 * 4) / 4 = 3.5, so -2.1875.
    All the same: -0.75 a step, tau_eff = 3, so -2.25. FedAvg: -2. A server_lr of 0.5 halves it.
    """
    for weighting, expected, tau_eff in (("num_examples", -2.1875, 3.5), ("uniform", -2.25, 3)):
        fednova, total = FedNova(weighting=weighting, server_lr=0.5), WeightedSum()
        for n, steps in ((1, 2), (3, 4)):
            update, _ = fednova.finish(torch.tensor([5.0]), torch.tensor([3.0]), steps, 0.1, {}, {})
            vectors = {name: vector.numpy() for name, vector in update.items()}
            total.add_update({**vectors, "buffers": np.full(1, n, np.float32)}, fednova.weight(n))
        updates = Updates(total, [])
        mean = Mean().aggregate(updates, fednova.denominator(total.weight))
        state = {"params": np.array([5], np.float32), "buffers": np.zeros(1, np.float32)}
        after = fednova.server_update(state, mean, 1.0)
        assert fednova.delta(mean).tolist() == [expected]
        assert after["params"].tolist() == [5 + expected / 2]
        assert after["buffers"].tolist() == [2.5 if weighting == "num_examples" else 2]  # a plain mean, not normalised
        assert after.keys() == state.keys()
        assert fednova.metrics(after, mean, updates) == {"tau_eff": tau_eff}


def test_tau_eff_is_the_mean_of_the_clients_steps():
    """By examples, and of this round's cohort."""
    done, _ = Regression(SIZES).play(FedNova, 3, cohort=2, **UNEQUAL)
    for after in done:
        reports = after.updates.reports
        expected = sum(r.num_examples * r.steps for r in reports) / sum(r.num_examples for r in reports)
        assert FedNova().metrics(after.state, after.mean, after.updates) == {"tau_eff": pytest.approx(expected)}
    assert len({r.steps for r in done[0].updates.reports}) == 2


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_a_client_alone_is_fedavgs_however_many_its_steps(momentum):
    """The normalisation cancels for one client; for clients of unequal steps it does not."""
    regression = Regression((96,))
    settings = {**UNEQUAL, "momentum": momentum}
    (nova, _), (avg, _) = (regression.play(kind, 3, **settings) for kind in (FedNova, FedAvg))
    np.testing.assert_allclose(nova[-1].state["params"], avg[-1].state["params"], rtol=0, atol=1e-6)
    regression = Regression(SIZES)
    (nova, _), (avg, _) = (regression.play(kind, 1, **settings) for kind in (FedNova, FedAvg))
    assert np.abs(nova[-1].state["params"] - avg[-1].state["params"]).max() > 0.01


def test_with_mu_the_clients_are_fedproxs():
    """Each client sends FedProx's update over its |a_k|_1."""
    regression = Regression(SIZES)
    (nova, _), (prox, _) = (regression.play(kind, 1, mu=2.0, **UNEQUAL) for kind in (FedNova, FedProx))
    for one, other in zip(nova[0].updates.reports, prox[0].updates.reports, strict=True):
        assert one.update_norm == pytest.approx(other.update_norm / ((1 - 0.8**one.steps) / 0.2), rel=1e-5)
