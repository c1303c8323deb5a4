"""Every algorithm against its paper's pseudo-code, written as plain NumPy loops in float64: linear regression on five
unequal shards of sorted labels, three clients a round. The engine's float32 has to end within 1e-5 of what moved.

A reference yields, after each round, the server's vectors and all clients' memories. None of it knows fedray's words:
models are averaged where the paper averages models, and gradients have the sign of the paper.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playing import Regression, fresh, play, squared, with_batchnorm
from small_data import make_algorithm, make_dataset

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedavgm import FedAvgM
from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fednova import FedNova
from fedray.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.fedsgd import FedSGD
from fedray.algorithms.moon import Moon
from fedray.algorithms.scaffold import Scaffold
from fedray.models import build as networks
from fedray.server.rounds import sample_cohort
from fedray.training.batches import draw_batches

SIZES, ROUNDS = (6, 10, 18, 27, 35), 5
COHORTS = [sample_cohort(3, t, 5, 3) for t in range(1, ROUNDS + 1)]
SAME = {"lr": 0.1, "steps": 4, "batch_size": 0}
UNEQUAL = {"lr": 0.05, "steps": None, "batch_size": 10, "epochs": 2}  # 2, 2, 4, 6 and 8 steps


@pytest.fixture(scope="module")
def regression():
    return Regression(SIZES)


def test_the_cohorts_are_worth_a_test():
    """Everyone takes part, some for the second time after a pause, and no round has everyone."""
    assert set().union(*COHORTS) == set(range(5))
    assert any(k in COHORTS[0] and k not in COHORTS[1] and k in set().union(*COHORTS[2:]) for k in range(5))


def gradients(regression, a, k, t):
    """The stochastic gradients g_k of round t, one function for each local step."""

    def of(x, y):
        return lambda w: x.T @ (x @ w - y) / len(y)

    return [of(x, y) for x, y in regression.batches(a, k, t)]


def heavy_ball(directions, w, lr, momentum):
    """SGD with momentum from w along one direction after the other; momentum 0 is the papers' own."""
    velocity = 0.0
    for direction in directions:
        velocity = momentum * velocity + direction(w)
        w = w - lr * velocity
    return w


def mean(of, weights, cohort):
    """The mean over the cohort with the p_k of those in it."""
    return sum(weights[k] * of[k] for k in cohort) / sum(weights[k] for k in cohort)


def share(a, p, cohort):
    """|S|/N, or the cohort's share of all weights."""
    return len(cohort) / 5 if a.weighting == "uniform" else sum(p[k] for k in cohort)


def fedsgd(problem, a, p, lrs):
    w = problem.start
    for cohort, lr in zip(COHORTS, lrs, strict=True):
        g = {k: problem.gradient(k, w) for k in cohort}
        w = w - lr * mean(g, p, cohort)
        yield {"params": w}, {}


def fedavg(problem, a, p, lrs):
    """Weight decay is the gradient of an L2 penalty."""
    w = problem.start
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        clients = {}
        for k in cohort:
            directions = [lambda y, g=g: g(y) + a.weight_decay * y for g in gradients(problem, a, k, t)]
            clients[k] = heavy_ball(directions, w, lr, a.momentum)
        w = mean(clients, p, cohort)
        yield {"params": w}, {}


def fedprox(problem, a, p, lrs):
    w = problem.start
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        clients = {}
        for k in cohort:
            directions = [lambda y, g=g, w=w: g(y) + a.mu * (y - w) for g in gradients(problem, a, k, t)]
            clients[k] = heavy_ball(directions, w, lr, a.momentum)
        w = mean(clients, p, cohort)
        yield {"params": w}, {}


def fedavgm(problem, a, p, lrs):
    """v <- beta v + dw with dw = the mean of w_t - w_k, w <- w - v; Nesterov's looks ahead by another beta v."""
    w, v = problem.start, 0.0
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        dw = mean({k: w - heavy_ball(gradients(problem, a, k, t), w, lr, 0) for k in cohort}, p, cohort)
        v = a.server_momentum * v + dw
        w = w - a.server_lr * (dw + a.server_momentum * v if a.server_nesterov else v)
        yield {"params": w, "v": -v}, {}


def fedopt(problem, a, p, lrs):
    x, m, v = problem.start, 0.0, a.server_tau**2 * np.ones_like(problem.start)
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        clients = {k: heavy_ball(gradients(problem, a, k, t), x, lr, 0) - x for k in cohort}
        delta = mean(clients, p, cohort)
        m = a.server_beta1 * m + (1 - a.server_beta1) * delta
        if isinstance(a, FedAdagrad):
            v = v + delta**2
        elif isinstance(a, FedAdam):
            v = a.server_beta2 * v + (1 - a.server_beta2) * delta**2
        else:
            v = v - (1 - a.server_beta2) * delta**2 * np.sign(v - delta**2)
        x = x + a.server_lr * m / (np.sqrt(v) + a.server_tau)
        yield {"params": x, "m": m, "v": v}, {}


def scaffold(problem, a, p, lrs):
    """With the paper's |S|/N for equal weights, and otherwise the cohort's share of the weights.

    With momentum the mean of the c_i-corrected gradients is over how often each was applied: K becomes sum_k a_k,
    a_k = (1 - rho^(K - k)) / (1 - rho), which is K - k for rho = 1, the paper's 1 for rho = 0.
    """
    x, c, c_i = problem.start, 0.0, dict.fromkeys(range(5), np.zeros((4, 3)))
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        clients, renewed = {}, {}
        for k in cohort:
            directions = [lambda y, g=g, c_k=c_i[k], c=c: g(y) - c_k + c for g in gradients(problem, a, k, t)]
            y = heavy_ball(directions, x, lr, a.momentum)
            if a.option == "I":
                renewed[k] = problem.gradient(k, x)
            else:
                far = sum((1 - a.momentum ** (j + 1)) / (1 - a.momentum) for j in range(len(directions)))
                renewed[k] = c_i[k] - c + (x - y) / (far * lr)
            clients[k] = y
        x = x + a.server_lr * (mean(clients, p, cohort) - x)
        c = c + share(a, p, cohort) * mean({k: renewed[k] - c_i[k] for k in cohort}, p, cohort)
        c_i = {**c_i, **renewed}
        yield {"params": x, "c": c}, {k: {"c_i": c_i[k]} for k in range(5)}


def fednova(problem, a, p, lrs):
    """a_k as a vector, step by step, as in the authors' code: the coefficient of each gradient in x_tau - x_0."""
    x = problem.start
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        d, norm, far = {}, {}, {}
        for k in cohort:
            directions = [lambda y, g=g, x=x: g(y) + a.mu * (y - x) for g in gradients(problem, a, k, t)]
            norm[k], far[k] = (applied(len(directions), a.momentum, pull).sum() for pull in (lr * a.mu, 0.0))
            d[k] = (x - heavy_ball(directions, x, lr, a.momentum)) / (lr * norm[k])
        x = x - a.server_lr * mean(far, p, cohort) * lr * mean(d, p, cohort)
        yield {"params": x}, {}


def applied(steps, momentum, pull):
    """How often the gradient of each step is in the distance after the last, gradient by gradient."""
    distance, speed = np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        speed = momentum * speed + np.eye(steps)[step] - pull * distance
        distance = distance + speed
    return distance


def feddyn(problem, a, p, lrs):
    """h - alpha/m sum_S (theta_k - theta) for equal weights, m the number of all clients."""
    theta, g, h = problem.start, dict.fromkeys(range(5), np.zeros((4, 3))), np.zeros((4, 3))
    for t, (cohort, lr) in enumerate(zip(COHORTS, lrs, strict=True), 1):
        clients = {}
        for k in cohort:
            directions = [
                lambda y, s=s, g_k=g[k], theta=theta: s(y) - g_k + a.alpha * (y - theta)
                for s in gradients(problem, a, k, t)
            ]
            clients[k] = heavy_ball(directions, theta, lr, a.momentum)
        h = h - a.alpha * share(a, p, cohort) * mean({k: clients[k] - theta for k in cohort}, p, cohort)
        g = {**g, **{k: g[k] - a.alpha * (clients[k] - theta) for k in cohort}}
        theta = mean(clients, p, cohort) - h / a.alpha
        yield {"params": theta, "h": h}, {k: {"g_k": g[k]} for k in range(5)}


CASES = {
    "fedsgd": (FedSGD, fedsgd, {}),
    "fedavg": (FedAvg, fedavg, {"weight_decay": 0.3}),
    "fedavg, batches": (FedAvg, fedavg, {**UNEQUAL, "momentum": 0.5}),
    "fedavgm": (FedAvgM, fedavgm, {"server_momentum": 0.7, "server_lr": 0.5}),
    "fedavgm, Nesterov": (FedAvgM, fedavgm, {"server_momentum": 0.7, "server_nesterov": True}),
    "fedprox": (FedProx, fedprox, {"mu": 2.0}),
    "fedprox, momentum": (FedProx, fedprox, {**UNEQUAL, "mu": 2.0, "momentum": 0.5}),
    "fedadagrad": (FedAdagrad, fedopt, {"server_tau": 0.1}),
    "fedadagrad, momentum": (FedAdagrad, fedopt, {"server_tau": 0.1, "server_beta1": 0.6}),
    "fedadam": (FedAdam, fedopt, {"server_tau": 0.1, "server_lr": 0.1}),
    "fedyogi": (FedYogi, fedopt, {"server_tau": 0.1, "server_lr": 0.1, "server_beta2": 0.6}),
    "scaffold I": (Scaffold, scaffold, {"option": "I"}),
    "scaffold II": (Scaffold, scaffold, {"server_lr": 0.7}),
    "scaffold I, batches": (Scaffold, scaffold, {**UNEQUAL, "option": "I"}),
    "scaffold II, batches": (Scaffold, scaffold, UNEQUAL),
    "scaffold II, momentum": (Scaffold, scaffold, {"momentum": 0.6}),
    "scaffold II, a schedule": (Scaffold, scaffold, {"lr_schedule": "exponential", "lr_decay": 0.6}),
    "fednova": (FedNova, fednova, UNEQUAL),
    "fednova, server_lr": (FedNova, fednova, {**UNEQUAL, "server_lr": 0.7}),
    "fednova, momentum": (FedNova, fednova, {**UNEQUAL, "momentum": 0.6}),
    "fednova, mu": (FedNova, fednova, {**UNEQUAL, "mu": 2.0, "lr_schedule": "exponential", "lr_decay": 0.6}),
    "fednova, momentum and mu": (FedNova, fednova, {**UNEQUAL, "mu": 2.0, "momentum": 0.6}),
    "feddyn": (FedDyn, feddyn, {"alpha": 0.5}),
    "feddyn, batches": (FedDyn, feddyn, {**UNEQUAL, "alpha": 0.5, "momentum": 0.5}),
}


@pytest.mark.parametrize("weighting", ["num_examples", "uniform"])
@pytest.mark.parametrize("case", CASES)
def test_an_algorithm_is_its_papers_pseudo_code(regression, case, weighting):
    kind, reference, settings = CASES[case]
    algorithm = make_algorithm(squared(kind), **{**SAME, **settings}, weighting=weighting)
    decay = algorithm.lr_decay if algorithm.lr_schedule == "exponential" else 1
    lrs = [algorithm.lr * decay**t for t in range(ROUNDS)]
    expected = list(reference(regression, algorithm, regression.weights(weighting), lrs))
    for engine in ["plain"] if algorithm.unfusable else ["plain", "fused"]:
        done, population = play(
            algorithm, regression.dataset, regression.shards, ROUNDS, model="logistic", cohort=3, engine=engine
        )
        for after, (state, _) in zip(done, expected, strict=True):
            assert after.cohort == COHORTS[after.t - 1]
            assert after.state.keys() - {"buffers"} == state.keys()
            for name, value in state.items():
                moved = np.abs(value - (regression.start if name == "params" else 0)).max()
                assert_near(after.state[name], value, moved, f"{name} after round {after.t}, {engine}")
        memories = dict(population.memories(ROUNDS))
        for k, memory in expected[-1][1].items():
            assert memories[k].keys() == memory.keys()
            for name, value in memory.items():
                assert_near(memories[k][name], value, np.abs(value).max(), f"{name} of client {k}, {engine}")
    assert np.abs(expected[-1][0]["params"] - regression.start).max() > 0.03


def assert_near(vector, matrix, scale, what):
    np.testing.assert_allclose(vector, Regression.vector(matrix), rtol=0, atol=1e-5 * scale, err_msg=what)


def test_moon_is_its_papers_algorithm(monkeypatch):
    """Algorithm 1 with torch modules in float64: -log(e^near / (e^near + e^far)) written out, cosines by hand.

    With BatchNorm, so that it matters that z_glob and z_prev are in evaluation mode, with their own statistics.
    """
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_batchnorm)
    dataset = make_dataset(train=96, test=10, classes=3, side=2)
    shards = np.split(np.argsort(dataset.train_labels, kind="stable"), np.cumsum(SIZES)[:-1])
    algorithm = Moon(lr=0.1, mu=3.0, tau=0.4, batch_size=6, momentum=0.5)
    done, population = play(algorithm, dataset, shards, 4, model="mlp", cohort=3)
    w = fresh(dataset, "mlp").double()
    first, previous = deepcopy(w), {}
    for after in done:
        clients = []
        for k in after.cohort:
            data = dataset.train_images[shards[k]], dataset.train_labels[shards[k]]
            client, velocity = deepcopy(w).train(), [torch.zeros_like(p) for p in w.parameters()]
            for x, y in draw_batches(population.trainer.network, algorithm, k, *data, after.t):
                z = client[:-1](x.double())
                with torch.no_grad():
                    z_glob = deepcopy(w).eval()[:-1](x.double())
                    z_prev = previous.get(k, first).eval()[:-1](x.double())
                near, far = ((z * other).sum(1) / z.norm(dim=1) / other.norm(dim=1) / 0.4 for other in (z_glob, z_prev))
                contrast = -torch.log(torch.exp(near) / (torch.exp(near) + torch.exp(far)))
                loss = F.cross_entropy(client[-1](z), y) + 3.0 * contrast.mean()
                gradient = torch.autograd.grad(loss, list(client.parameters()))
                velocity = [0.5 * v + g for v, g in zip(velocity, gradient, strict=True)]
                with torch.no_grad():
                    for p, v in zip(client.parameters(), velocity, strict=True):
                        p -= 0.1 * v
            previous[k] = client
            clients.append((len(shards[k]), client))
        total = sum(n for n, _ in clients)
        w = deepcopy(w)
        for kind in ("parameters", "buffers"):
            of = [list(getattr(client, kind)()) for _, client in clients]
            with torch.no_grad():
                for tensor, *others in zip(getattr(w, kind)(), *of, strict=True):
                    if tensor.is_floating_point():
                        tensor.copy_(sum(n * other for (n, _), other in zip(clients, others, strict=True)) / total)
        assert_same(after.state, w, first)
    memories = dict(population.memories(4))
    assert memories.keys() == previous.keys()
    for k, client in previous.items():
        assert_same(memories[k], client, first)


def assert_same(vectors, module, first):
    for name, tensors in (("params", torch.nn.Module.parameters), ("buffers", torch.nn.Module.buffers)):
        expected, start = (
            torch.cat([t.detach().flatten() for t in tensors(m) if t.is_floating_point()]).numpy()
            for m in (module, first)
        )
        moved = np.abs(expected - start).max()
        assert moved > 0.1
        np.testing.assert_allclose(vectors[name], expected, rtol=0, atol=2e-5 * moved, err_msg=name)
