"""The classes of one's own on the pages are right: SAM, the average of the models, a partition; FedCM is in test_readme."""

import dataclasses
import importlib

import numpy as np
import pytest
from pages import page
from playing import Regression, play, with_dropout
from safetensors.numpy import load_file
from small_data import make_dataset
from small_runs import small

from fedray.algorithms.fedavg import FedAvg
from fedray.models import build as networks
from fedray.run import run
from fedray.run.prepared import Job

SIZES = (6, 10, 18)
DECAY, ROUNDS, LOCAL = 0.75, 3, {"lr": 0.5, "batch_size": 10}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The classes by name, from a file that has them one after another, as the pages do."""
    folder = tmp_path_factory.mktemp("own")
    blocks = (("algorithms", "class SAM"), ("algorithms", "class Averaged"), ("models-and-data", "class Str"))
    (folder / "own_of_pages.py").write_text("\n".join(page(name).block(word) for name, word in blocks))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield vars(importlib.import_module("own_of_pages"))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sam_is_the_papers(own, momentum):
    """Foret et al. 2021, Algorithm 1 with p = 2: w <- w - lr * grad L(w + rho g / |g|), g = grad L(w), for each batch of
    each client, and FedAvg's mean. On linear regression in float64, where L's gradient is known; |g| is over all params.
    """
    regression, rho, lr = Regression(SIZES), 0.4, 0.1
    settings = {"lr": lr, "batch_size": 5, "epochs": 2, "momentum": momentum}
    done, _ = regression.play(own["SAM"], 3, rho=rho, **settings)
    server, shares = regression.start, regression.weights("num_examples")
    for t, after in enumerate(done, 1):
        ends = []
        for k in range(len(SIZES)):
            w, velocity = server, 0.0
            for x, y in regression.batches(FedAvg(**settings), k, t):
                grad = lambda w, x=x, y=y: x.T @ (x @ w - y) / len(y)  # noqa: E731
                g = grad(w)
                velocity = momentum * velocity + grad(w + rho * g / np.sqrt((g**2).sum()))
                w = w - lr * velocity
            ends.append(w)
        server = sum(share * end for share, end in zip(shares, ends, strict=True))
        moved = np.abs(server - regression.start).max()
        np.testing.assert_allclose(Regression.matrix(after.state["params"]), server, atol=1e-5 * moved)
    plain, _ = regression.play(FedAvg, 3, **settings)
    assert np.abs(plain[-1].state["params"] - done[-1].state["params"]).max() > 1e-2 * moved


def test_sam_without_a_climb_is_fedavg(own, monkeypatch):
    """To the bit, on a network with BatchNorm, whose statistics move once a step, and dropout, whose masks stay."""
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_dropout)
    dataset, shards = make_dataset(train=96, test=10, side=4), np.split(np.arange(96), [20, 50])
    same = {"lr": 0.05, "batch_size": 8, "momentum": 0.5}
    one, other = (
        play(algorithm, dataset, shards, 2, model="mlp")[0][-1]
        for algorithm in (own["SAM"](rho=0, **same), FedAvg(**same))
    )
    assert one.state["params"].tobytes() == other.state["params"].tobytes()
    assert one.state["buffers"].tobytes() == other.state["buffers"].tobytes()


def measured(root, algorithm, rounds=ROUNDS):
    """A run that evaluates the server's and each client's model and keeps the best: its tables and its job."""
    settings = small(root, rounds=rounds, evaluation={"clients_every": 1}, output__save_best=True)
    settings = dataclasses.replace(settings, algorithm=algorithm)
    return run(settings), Job(settings)


def vector(path):
    """A saved model of logistic regression as params [P], in float64: the weight, then the bias."""
    bias, weight = sorted(load_file(path).values(), key=np.ndim)
    return np.concatenate([weight.ravel(), bias]).astype(float)


def loss(model, images, labels, dataset):
    """The mean cross-entropy by logistic regression, in NumPy."""
    mean, std = (np.array(each).reshape(1, -1, 1, 1) for each in (dataset.mean, dataset.std))
    x = ((images / 255 - mean) / std).reshape(len(images), -1)
    scores = x @ model[:-10].reshape(10, -1).T + model[-10:]
    scores -= scores.max(1, keepdims=True)
    return (np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]).mean()


def test_what_is_measured_and_saved_is_the_average(tmp_path, own):
    """By hand from FedAvg's models, of which clients go on: a_t = decay a_(t-1) + (1 - decay) w_t, a_0 = w_0.

    Test loss, clients' loss, best and final model are its, and none is that of the last model.
    """
    trained = []
    for t in range(1, ROUNDS + 1):
        _, plain = measured(tmp_path / str(t), FedAvg(**LOCAL), rounds=t)
        trained.append(vector(plain.model))
    tables, job = measured(tmp_path / "averaged", own["Averaged"](decay=DECAY, **LOCAL))
    average, averages = job.vectors[0].astype(float), []
    for model in trained:
        average = DECAY * average + (1 - DECAY) * model
        averages.append(average)
    best = int(tables.rounds["test_accuracy"].argmax())
    np.testing.assert_allclose(vector(job.model), averages[-1], atol=1e-6)
    np.testing.assert_allclose(vector(job.best_model), averages[best], atol=1e-6)
    data = job.dataset
    of_clients = [(data.test_images[rows], data.test_labels[rows]) for rows in job.own_tests]
    for t, (model, last) in enumerate(zip(averages, trained, strict=True)):
        test, other = (loss(each, data.test_images, data.test_labels, data) for each in (model, last))
        assert tables.rounds["test_loss"][t] == pytest.approx(test, rel=1e-4)
        clients = np.mean([loss(model, *examples, data) for examples in of_clients])
        assert tables.rounds["client_loss"][t] == pytest.approx(clients, rel=1e-4)
        assert test != pytest.approx(other, rel=1e-2)


def test_an_average_of_nothing_before_is_fedavg(tmp_path, own):
    (one, _), (other, _) = (
        measured(tmp_path / "a", own["Averaged"](decay=0, **LOCAL)),
        measured(tmp_path / "b", FedAvg(**LOCAL)),
    )
    assert one.runs["model_fingerprint"][0] == other.runs["model_fingerprint"][0]
    assert one.rounds["client_loss"].tolist() == other.rounds["client_loss"].tolist()


def test_stripes_go_around(own):
    shards = own["Stripes"](width=2).split(np.zeros(11), 3, 0)
    assert [rows.tolist() for rows in shards] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]
