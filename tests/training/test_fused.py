"""The fused engine against the plain one, and against itself: whom a client is trained with changes no bit."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import make_algorithm, make_recipe

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fednova import FedNova
from fedray.core.errors import ClientError
from fedray.models.build import build, initial_vectors
from fedray.models.model import WRITTEN_OUT
from fedray.server.rounds import play_rounds
from fedray.server.task import Task
from fedray.training import chunks
from fedray.training.block import train_block
from fedray.training.in_process import InProcessPopulation
from fedray.training.trainer import Trainer

# Below, at and above a batch of 8, with and without a rest; two of one size, which stay side by side when sorted.
SHARDS = [
    np.arange(0, 21),
    np.arange(21, 24),
    np.arange(24, 64),
    np.arange(64, 72),
    np.arange(30, 51),
    np.arange(72, 95),
]


class ControlVariates(FedAvg):
    """SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378), option II: every argument of the hooks is used."""

    def init(self, params, buffers):
        return {**super().init(params, buffers), "c": np.zeros_like(params)}

    def broadcast(self, state, t):
        return state

    def init_memory(self, params, buffers):
        return {"c_i": torch.zeros_like(params), "rounds": torch.zeros(1)}

    def correct(self, grad, params, message, memory, lr):
        return grad - memory["c_i"] + message["c"] + 0.1 * lr * (params - message["params"])

    def finish(self, start, end, steps, lr, message, memory):
        c_i = memory["c_i"] - message["c"] + (start - end) / (steps * lr)
        return {"params": end - start, "c": c_i - memory["c_i"]}, {"c_i": c_i, "rounds": memory["rounds"] + 1}

    def server_update(self, state, mean, participation):
        return {**super().server_update(state, mean, participation), "c": state["c"] + participation * mean["c"]}


class Unusual(FedAvg):
    """A loss that targets of padding, or a mean over more than one client's batch, would spoil."""

    def loss(self, output, targets):
        wanted = F.one_hot(targets, output.shape[1])
        return 0.5 * (output - wanted).square().sum(1).mean() + output.mean().square() * len(targets)


def train(trainer, algorithm, dataset, block, message, memories, t=1, summed=False):
    shard = lambda client: (dataset.train_images[SHARDS[client]], dataset.train_labels[SHARDS[client]])  # noqa: E731
    return train_block(trainer, Task(algorithm, message, t, 0.01), block, shard, memories, summed)


def play(algorithm, dataset, engine, *, model="logistic", augment="none", rounds=3, cohort=5, blocks=1):
    """Each round's state and reports, and the clients' memories at the end."""
    recipe = make_recipe(dataset, model, augment, engine=engine, cutout=9)
    population = InProcessPopulation(dataset, SHARDS, recipe, blocks)
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    ts = range(1, rounds + 1)
    done = list(play_rounds(algorithm, population, state, ts=ts, rounds=rounds, cohort=cohort, seed=5))
    return state, [(d.state, d.updates.reports) for d in done], dict(population.memories(rounds))


def assert_agree(algorithm, dataset, **settings):
    start, plain, plain_memories = play(algorithm, dataset, "plain", **settings)
    _, batched, memories = play(algorithm, dataset, "fused", **settings)
    for (state, reports), (expected_state, expected_reports) in zip(batched, plain, strict=True):
        for name, expected in expected_state.items():
            moved = np.abs(expected - start[name]).max(initial=0)
            np.testing.assert_allclose(state[name], expected, rtol=1e-4, atol=1e-4 * moved, err_msg=name)
        for report, expected in zip(reports, expected_reports, strict=True):
            for name in ("client", "num_examples", "steps", "bytes_up", "bytes_down", "status"):
                assert getattr(report, name) == getattr(expected, name), name
            assert report.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
            assert report.update_norm == pytest.approx(expected.update_norm, rel=1e-4)
    assert memories.keys() == plain_memories.keys()
    for client, memory in memories.items():
        for name, expected in plain_memories[client].items():
            assert memory[name].shape == expected.shape
            np.testing.assert_allclose(memory[name], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(plain[-1][0]["params"] - start["params"]).max() > 1e-3


CUTS = {
    "batches with a rest": {"batch_size": 8, "epochs": 2},
    "no rest": {"batch_size": 3, "drop_last": True, "epochs": 2},
    "steps that break epochs off": {"batch_size": 8, "steps": 7},
    "whole shards": {"batch_size": 0, "epochs": 2},
    "batches larger than shards": {"batch_size": 30, "epochs": 2},
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("model", WRITTEN_OUT)
def test_it_trains_as_the_plain_engine_does(dataset, model, cut):
    lr = 0.005 if cut in ("whole shards", "batches larger than shards") else 0.002  # so that all move about as far
    assert_agree(FedAvg(lr=lr, momentum=0.8, weight_decay=0.1, **CUTS[cut]), dataset, model=model)


@pytest.mark.parametrize("augment", ["crop-flip", "cutout", "crop-flip-cutout"])
@pytest.mark.parametrize("cut", ["batches with a rest", "steps that break epochs off"])
def test_augmented_images_are_the_plain_engines(dataset, cut, augment):
    assert_agree(FedAvg(lr=0.002, **CUTS[cut]), dataset, augment=augment)


LOCAL = {
    "clipping": {"clip_norm": 1.0, "epochs": 2},
    "label smoothing": {"label_smoothing": 0.3, "epochs": 2},
    "drawn epochs": {"epochs": 5, "epochs_min": 1},
    "drawn steps": {"steps": 9, "steps_min": 2, "clip_norm": 2.0, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("local", LOCAL)
@pytest.mark.parametrize("model", WRITTEN_OUT)
def test_the_settings_of_local_training_are_the_plain_engines(dataset, model, local):
    settings = {"lr": 0.005, "batch_size": 8, "momentum": 0.5, **LOCAL[local]}
    assert_agree(FedAvg(**settings), dataset, model=model)
    if local.startswith("drawn"):
        assert_agree(FedNova(**settings), dataset, model=model)


@pytest.mark.parametrize("algorithm", [ControlVariates, Unusual, *ALGORITHMS.values()], ids=lambda kind: kind.__name__)
def test_hooks_written_once_serve_many_clients(dataset, algorithm):
    algorithm = make_algorithm(algorithm, lr=0.002, momentum=0.5, batch_size=8, epochs=2)
    if algorithm.server_optimizer == "adagrad":  # whose first step is as long as server_lr in every direction
        algorithm = dataclasses.replace(algorithm, server_lr=0.01)
    if not algorithm.unfusable:
        assert_agree(algorithm, dataset, rounds=4)


@pytest.mark.parametrize("batch_size", [8, 20, 0])
@pytest.mark.parametrize("algorithm", [FedAvg, ControlVariates, Unusual])
@pytest.mark.parametrize("model", WRITTEN_OUT)
def test_a_clients_bits_do_not_depend_on_whom_it_is_trained_with(dataset, monkeypatch, model, algorithm, batch_size):
    """All together, in another order, in portions, and alone; in the second round with the memory of the first."""
    local = {"epochs": 3, "epochs_min": 1, "clip_norm": 4.0, "label_smoothing": 0.1}
    algorithm = algorithm(lr=0.01, momentum=0.9, batch_size=batch_size, **local)
    trainer = Trainer(make_recipe(dataset, model, "crop-flip-cutout", engine="fused"))
    message = algorithm.init(*initial_vectors(trainer.network.flat.module))

    def bits(*blocks):
        remembered, found = {client: {} for client in range(len(SHARDS))}, {}
        for t in (1, 2):
            for block in blocks:
                known = [remembered[client] for client in block]
                trained, memories = train(trainer, algorithm, dataset, block, message, known, t)
                remembered.update(zip(block, memories, strict=True))
                assert [report.client for report in trained.reports] == block
                for report, update, memory in zip(trained.reports, trained.each, memories, strict=True):
                    vectors = {name: vector.tobytes() for name, vector in {**update, **memory}.items()}
                    found[t, report.client] = (vectors, dataclasses.replace(report, seconds=0.0, cpu_seconds=0.0))
        return found

    together = bits([0, 1, 2, 3, 4, 5])
    assert len({vectors["params"] for vectors, _ in together.values()}) == 12
    assert bits([5, 2, 0, 4, 1, 3]) == together
    assert bits([2, 1], [0, 5], [4, 3]) == together
    assert bits([0], [1], [2], [3], [4], [5]) == together
    monkeypatch.setattr(chunks, "PARAMS_AT_ONCE", 3 * message["params"].nbytes)
    assert bits([0, 1, 2, 3, 4, 5]) == together
    monkeypatch.setattr(chunks, "SHARDS_AT_ONCE", 1)
    assert bits([0, 1, 2, 3, 4, 5]) == together


def test_the_time_is_shared_out_by_steps(dataset):
    _, done, _ = play(FedAvg(batch_size=8), dataset, "fused", cohort=6)
    for _, reports in done:
        a_step = {report.client: report.seconds / report.steps for report in reports}
        assert min(a_step.values()) > 0
        assert list(a_step.values()) == pytest.approx([next(iter(a_step.values()))] * 6)


def test_memories_of_clients_are_apart(dataset):
    """One that is kept must not keep those of a whole block."""
    _, _, memories = play(ControlVariates(lr=0.01, batch_size=8), dataset, "fused", cohort=6)
    assert len(memories) == 6
    assert all(vector.base is None for memory in memories.values() for vector in memory.values())


class Counting(FedAvg):
    """Its update has what is the same for all clients, and what came from the server."""

    def finish(self, start, end, steps, lr, message, memory):
        return {"params": end - start, "one": torch.ones(1), "start": start, "message": message["params"]}, memory


@pytest.mark.parametrize("block", [[0], [0, 1, 2]])
def test_what_is_the_same_for_all_clients_counts_once_for_each(dataset, block):
    algorithm = Counting(batch_size=8, weighting="uniform")
    trainer = Trainer(make_recipe(dataset, "logistic", engine="fused"))
    message = algorithm.init(*initial_vectors(trainer.network.flat.module))
    before = message["params"].copy()
    trained, _ = train(trainer, algorithm, dataset, block, message, [{}] * len(block), summed=True)
    assert trained.sum.vectors["one"].tolist() == [len(block)]
    for name in ("start", "message"):
        np.testing.assert_allclose(trained.sum.vectors[name], len(block) * before, rtol=1e-6)
    assert (message["params"] == before).all()


class Broken(FedAvg):
    def loss(self, output, targets):
        if len(targets) == 7:
            raise ZeroDivisionError("the user's own mistake")
        return super().loss(output, targets)


class WrongLength(FedAvg):
    def finish(self, start, end, steps, lr, message, memory):
        return {"params": (end - start)[..., 1:]}, memory


def test_an_error_names_the_clients_that_were_trained_together(dataset):
    for algorithm, message in ((Broken, "the user's own mistake"), (WrongLength, r"\(1, 30729\), not \(1, 30730\)")):
        with pytest.raises(ClientError, match=message) as error:
            play(algorithm(batch_size=8), dataset, "fused", cohort=6, blocks=6)
        assert str(error.value).startswith("client ")
        with pytest.raises(ClientError) as error:
            play(algorithm(batch_size=8), dataset, "fused", cohort=6)
        clients = str(error.value).partition(", which train as one program, failed in round 1:\n")[0]
        assert sorted(clients.removeprefix("one of the clients ").split(", ")) == list("012345")
        assert str(error.value).count("Traceback") == 1
