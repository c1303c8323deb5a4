"""FedAvgM, FedAdagrad, FedAdam, FedYogi and the server optimizer that they name: two rounds each by hand."""

import numpy as np
import pytest
import torch
from playing import play

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedavgm import FedAvgM
from fedray.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi


def after(algorithm, *deltas):
    """The params, and the state, after rounds whose aggregated updates are `deltas`, from params and buffers of 0."""
    state, path = algorithm.init(np.zeros(1, np.float32), np.zeros(1, np.float32)), []
    for delta in deltas:
        mean = {"params": np.array([delta], np.float32), "buffers": np.ones(1, np.float32)}
        state = algorithm.server_update(state, mean, 0.5)
        path.append(state["params"].item())
    assert all(vector.dtype == np.float32 for vector in state.values())
    assert state["buffers"].tolist() == [len(deltas)]  # statistics follow the mean itself, whatever the optimizer
    return path, {name: vector.item() for name, vector in state.items() if name in ("m", "v")}


def test_fedavgm_by_hand():
    """beta = 0.5, updates 1 and 2: v = 1, then 0.5 * 1 + 2 = 2.5; w = 1, then 3.5; half of it with server_lr 0.5."""
    assert after(FedAvgM(server_momentum=0.5), 1, 2) == ([1, 3.5], {"v": 2.5})
    assert after(FedAvgM(server_momentum=0.5, server_lr=0.5), 1, 2) == ([0.5, 1.75], {"v": 2.5})


def test_nesterov_by_hand():
    """The same v, but steps of delta + beta v: 1 + 0.5 * 1 = 1.5, then 2 + 0.5 * 2.5 = 3.25."""
    assert after(FedAvgM(server_momentum=0.5, server_nesterov=True), 1, 2) == ([1.5, 4.75], {"v": 2.5})


def test_fedadagrad_by_hand():
    """tau = 3, so v starts at 9; updates 4 and 12: v = 9 + 16 = 25, then 25 + 144 = 169.

    Steps of 4 / (5 + 3) = 0.5 and 12 / (13 + 3) = 0.75. With beta1 = 0.5, m = 2 and then 7: 2 / 8 and 7 / 16.
    """
    settings = {"server_tau": 3.0, "server_lr": 1.0}
    assert after(FedAdagrad(**settings), 4, 12) == ([0.5, 1.25], {"m": 12, "v": 169})
    assert after(FedAdagrad(server_beta1=0.5, **settings), 4, 12) == ([0.25, 0.6875], {"m": 7, "v": 169})


def test_fedadam_by_hand():
    """tau = 1, so v starts at 1; beta1 = beta2 = 0.5; updates 7 and 35, lr 1, and nothing is corrected for the start.

    v = (1 + 49) / 2 = 25, then (25 + 1225) / 2 = 625. m = 3.5, then (3.5 + 35) / 2 = 19.25.
    Steps of 3.5 / (5 + 1) and 19.25 / (25 + 1).
    """
    path, moments = after(FedAdam(server_tau=1.0, server_beta1=0.5, server_beta2=0.5, server_lr=1.0), 7, 35)
    assert path == pytest.approx([3.5 / 6, 3.5 / 6 + 19.25 / 26])
    assert moments == {"m": 19.25, "v": 625}


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
def test_a_tau_below_all_float32_leaves_params_that_nothing_changes(kind):
    assert after(kind(server_tau=1e-300), 0, 0)[0] == [0, 0]


def test_fedyogi_by_hand():
    """tau = 1, so v starts at 1; beta1 = 0.5, beta2 = 0.75; updates 1.5 and -0.7.

    1.5^2 = 2.25 > v, so v = 1 + 2.25 / 4 = 1.5625 = 1.25^2. 0.7^2 = 0.49 < v, so v = 1.5625 - 0.49 / 4 = 1.44 = 1.2^2.
    m = 0.75, then 0.375 - 0.35 = 0.025. Steps of 0.75 / 2.25 and 0.025 / 2.2. Adam's v: 1.3125, then 1.106875.
    """
    settings = {"server_tau": 1.0, "server_beta1": 0.5, "server_beta2": 0.75, "server_lr": 1.0}
    path, moments = after(FedYogi(**settings), 1.5, -0.7)
    assert path == pytest.approx([1 / 3, 1 / 3 + 0.025 / 2.2])
    assert moments == pytest.approx({"m": 0.025, "v": 1.44})
    assert after(FedAdam(**settings), 1.5, -0.7)[1] == pytest.approx({"m": 0.025, "v": 1.106875})


@pytest.mark.parametrize("nesterov", [False, True])
def test_server_momentum_is_torchs_with_the_update_as_minus_the_gradient(nesterov):
    deltas = np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)
    algorithm = FedAvgM(server_momentum=0.9, server_lr=0.3, server_nesterov=nesterov)
    state, w = algorithm.init(np.ones(20, np.float32), np.zeros(0, np.float32)), torch.ones(20)
    optimizer = torch.optim.SGD([w], lr=0.3, momentum=0.9, nesterov=nesterov)
    for delta in deltas:
        state = algorithm.server_update(state, {"params": delta, "buffers": np.zeros(0, np.float32)}, 1.0)
        w.grad = torch.from_numpy(-delta)
        optimizer.step()
    np.testing.assert_allclose(state["params"], w, rtol=1e-5)


def test_a_steady_update_goes_ten_times_as_far_with_a_momentum_of_nine_tenths():
    path, _ = after(FedAvgM(), *[1] * 200)
    assert path[-1] - path[-2] == pytest.approx(10, rel=1e-4)


def test_an_adaptive_server_makes_steps_of_its_lr_whatever_the_size_of_the_updates():
    """Constant updates: m / sqrt(v) tends to 1, for Adagrad falls like 1 / sqrt(t)."""
    for kind, steps in ((FedAdam, 1.0), (FedYogi, 1.0), (FedAdagrad, 1 / np.sqrt(2000))):
        for size in (0.1, 3.0):
            path, _ = after(kind(server_lr=0.5, server_tau=1e-6), *[size] * 2000)
            assert path[-1] - path[-2] == pytest.approx(0.5 * steps, rel=0.02)


NAMES = {
    FedAvgM: {"server_momentum": 0.9},
    FedAdagrad: {"server_optimizer": "adagrad", "server_lr": 0.1, "server_beta1": 0.0},
    FedAdam: {"server_optimizer": "adam", "server_lr": 0.01},
    FedYogi: {"server_optimizer": "yogi", "server_lr": 0.01},
}


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.name)
def test_it_is_a_name_for_fedavg_with_a_server_optimizer(kind, dataset):
    """Bit for bit, with the paper's defaults: Reddi et al.'s beta1 = 0.9, beta2 = 0.99 and tau = 0.001."""
    shards = [np.arange(0, 30), np.arange(30, 50), np.arange(50, 96)]
    named, spelt = kind(batch_size=8), FedAvg(batch_size=8, **NAMES[kind])
    (one, _), (other, _) = (play(a, dataset, shards, 3, model="logistic", cohort=2) for a in (named, spelt))
    for mine, its in zip(one, other, strict=True):
        assert {name: v.tobytes() for name, v in mine.state.items()} == {k: v.tobytes() for k, v in its.state.items()}
    assert (named.server_beta2, named.server_tau) == (0.99, 1e-3)
    assert named.server_beta1 == (0.0 if kind is FedAdagrad else 0.9)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"server_momentum = 0.5 is for server_optimizer = sgd.*server_beta1"):
        FedAdam(server_momentum=0.5)
    with pytest.raises(ValueError, match="server_nesterov = true needs an algorithm.server_momentum above 0"):
        FedAvgM(server_nesterov=True, server_momentum=0.0)
