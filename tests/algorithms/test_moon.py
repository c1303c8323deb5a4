"""MOON by hand, and what the contrast does."""

import numpy as np
import pytest
import torch
from playing import fresh, inputs, play, with_batchnorm
from small_data import make_dataset

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.moon import Moon
from fedray.models import build as networks
from fedray.server.task import Task

SHARDS = np.split(np.arange(96), [8, 24, 54])


@pytest.fixture(scope="module")
def small():
    return make_dataset(train=96, test=10, side=4)


def test_the_contrast_by_hand():
    """tau = 0.5. z is z_glob's direction and at a right angle to z_prev's: near = 2, far = 0.

    -log(e^2 / (e^2 + 1)) = log(1 + e^-2) = 0.126928, at any lengths. The other way round: log(1 + e^2) = 2.126928.
    The mean of both is 1.126928; times mu = 3 it is 3.380784.
    """
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    references = {"glob": torch.tensor([[1.0, 0.0], [5.0, 0.0]]), "prev": torch.tensor([[0.0, 3.0], [0.0, 1.0]])}
    moon = Moon(mu=3.0, tau=0.5)
    first = {name: other[:1] for name, other in references.items()}
    assert float(moon.penalty(z[:1], first)) == pytest.approx(3 * 0.126928, abs=1e-5)
    assert float(moon.penalty(z, references)) == pytest.approx(3.380784, abs=1e-5)


def test_its_gradient_by_hand():
    """z = (1, 0) between z_glob = (0, 1) and z_prev = (0, -1): near = far = 0, where the loss falls at half the rate.

    d near / dz = z_glob / tau = (0, 2) and d far / dz = (0, -2), so the gradient is (far' - near') / 2 = (0, -2):
    a step down it turns z towards z_glob.
    """
    z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    references = {"glob": torch.tensor([[0.0, 1.0]]), "prev": torch.tensor([[0.0, -1.0]])}
    Moon(mu=1.0, tau=0.5).penalty(z, references).backward()
    assert z.grad.flatten().tolist() == pytest.approx([0, -2])


def test_it_is_the_papers_formula_at_every_temperature():
    """-log(e^near / (e^near + e^far)) in float64, where that does not overflow."""
    rng = np.random.default_rng(2)
    z, glob, prev = (torch.from_numpy(rng.normal(size=(50, 7))) for _ in range(3))
    for tau in (0.01, 0.5, 3.0):
        near, far = ((z * other).sum(1) / z.norm(dim=1) / other.norm(dim=1) / tau for other in (glob, prev))
        expected = -torch.log(torch.exp(near) / (torch.exp(near) + torch.exp(far))).mean()
        assert float(Moon(mu=1.0, tau=tau).penalty(z, {"glob": glob, "prev": prev})) == pytest.approx(float(expected))


def test_the_references_are_the_rounds_model_and_the_clients_last_own():
    message, memory = {"params": "w_t"}, {"params": "w_k"}
    assert Moon().references(message, memory) == {"glob": message, "prev": memory}


def test_a_client_remembers_the_model_it_ended_with_and_not_the_global_one(small, monkeypatch):
    """With its statistics. Before its first round it is the initial model."""
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_batchnorm)
    algorithm = Moon(lr=0.1, batch_size=8)
    done, population = play(algorithm, small, SHARDS, 2, model="mlp", cohort=3)
    message, before = algorithm.broadcast(done[0].state, 2), dict(population.memories(1))
    for k in done[1].cohort:
        trained = population.trainer.train(
            Task(algorithm, message, 2, 0.1), k, *population.shards.of(k), before.get(k, {})
        )
        for name in ("params", "buffers"):
            np.testing.assert_allclose(trained[1][name], message[name] + trained[0][name], rtol=0, atol=1e-6)
            assert np.abs(trained[1][name] - done[1].state[name]).max() > 1e-3
    start = {"params": torch.ones(3), "buffers": torch.zeros(2)}
    assert algorithm.init_memory(**start) == start


def test_the_first_round_is_fedavgs_and_the_next_is_not(small):
    """z_prev is z_glob then: near = far, and the contrast has no gradient. It is not in the loss that is reported."""
    settings = {"lr": 0.1, "batch_size": 8, "momentum": 0.5}
    (moon, _), (avg, _) = (
        play(a, small, SHARDS, 2, model="mlp") for a in (Moon(mu=5.0, **settings), FedAvg(**settings))
    )
    first, second = (np.abs(a.state["params"] - b.state["params"]).max() for a, b in zip(moon, avg, strict=True))
    assert first < 1e-6
    assert second > 1e-3
    losses, expected = ([report.train_loss for report in done[0].updates.reports] for done in (moon, avg))
    assert losses == pytest.approx(expected, rel=1e-5)


def test_the_heavier_the_contrast_the_nearer_features_stay_to_the_global_models_than_to_the_last_own(small):
    """Round 2 of each client from the same message and memory: the mean of far - near after training falls with mu."""
    algorithm = Moon(lr=0.05, batch_size=8)
    done, population = play(algorithm, small, SHARDS, 1, model="mlp")
    message, memories = algorithm.broadcast(done[0].state, 2), dict(population.memories(1))

    def features(params, x):
        module = fresh(small, "mlp")
        torch.nn.utils.vector_to_parameters(torch.from_numpy(params), module.parameters())
        return module[:-1](x)

    for k in range(len(SHARDS)):
        x, _ = inputs(small, SHARDS[k])
        gaps = []
        for mu in (0.0, 1.0, 5.0):
            moon = Moon(lr=0.05, batch_size=8, epochs=2, mu=mu)
            update, _, _ = population.trainer.train(
                Task(moon, message, 2, 0.05), k, *population.shards.of(k), memories[k]
            )
            with torch.no_grad():
                z, *others = (
                    features(params, x)
                    for params in (message["params"] + update["params"], message["params"], memories[k]["params"])
                )
                near, far = (torch.cosine_similarity(z, other).mean() for other in others)
            gaps.append(float(far - near))
        assert gaps[0] > gaps[1] > gaps[2], gaps
