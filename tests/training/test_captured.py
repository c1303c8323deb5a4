"""The plain engine's steps as graphs: on a CPU a tape stands for the graph, and the bits are those of its own loop."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from small_data import make_algorithm, make_dataset, make_recipe
from tape import Tape, use_tapes
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.scaffold import Scaffold
from fedray.models.build import build, initial_vectors
from fedray.server.rounds import play_rounds
from fedray.training import captured
from fedray.training.device import settle_on
from fedray.training.in_process import InProcessPopulation
from fedray.training.shards import Shards

SHARDS = [np.arange(0, 14), np.arange(14, 17), np.arange(17, 40), np.arange(40, 60)]
"""Batches of four: rests of 2, 3, 3 and none, one shard that is smaller than a batch, and one that needs more steps."""
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture
def tapes(monkeypatch):
    return use_tapes(monkeypatch)


def play(device, model="lenet5", algorithm=None, *, rounds=3, augment="none", shards=SHARDS, blocks=1, **settings):
    """Params and buffers, losses and norms after each round in which all clients train, and all memories at the end."""
    dataset = make_dataset(train=60, test=6, validation=0)
    algorithm = algorithm or FedAvg(lr=0.05, batch_size=4)
    recipe = make_recipe(dataset, model, augment, **settings)
    population = InProcessPopulation(dataset, shards, recipe, blocks, device=device)
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    done = play_rounds(
        algorithm, population, state, ts=range(1, rounds + 1), rounds=rounds, cohort=len(shards), seed=5
    )
    played = []
    for each in done:
        reports = [(r.client, r.steps, r.images, r.train_loss, r.update_norm, r.status) for r in each.updates.reports]
        played.append(({name: vector.copy() for name, vector in each.state.items()}, reports))
    memories = {client: memory for client, memory in population.memories(rounds)}
    return played, memories, population.trainer.network


def bits(played, memories):
    vectors = [state[name].tobytes() for state, _ in played for name in sorted(state)]
    kept = [(client, name, memory[name].tobytes()) for client, memory in sorted(memories.items()) for name in memory]
    return vectors, [reports for _, reports in played], kept


def assert_same(model="lenet5", algorithm=None, **settings):
    *found, network = play("cpu:0", model, algorithm, **settings)
    *expected, _ = play("cpu", model, algorithm, **settings)
    assert bits(*found) == bits(*expected)
    return network


MODELS = {
    "lenet5": ("lenet5", {}),
    "cnn": ("cnn", {}),
    "cnn, whose layers have the channels last": ("cnn", {"channels_last": True}),
    "BatchNorm": ("resnet20", {"rounds": 2}),
    "bfloat16": ("lenet5", {"precision": "bfloat16"}),
    "auxiliary classifiers": ("googlenet", {"aux_weight": 0.3, "rounds": 1, "shards": [np.arange(0, 16)]}),
    "frozen layers": ("resnet18", {"freeze": "backbone", "rounds": 2}),
    "crop-flip": ("lenet5", {"augment": "crop-flip"}),
    "cutout": ("cnn", {"augment": "crop-flip-cutout"}),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_models_steps_are_those_of_the_loop(tapes, case):
    model, settings = MODELS[case]
    assert_same(model, **settings)
    assert tapes
    assert Tape.replays > len(tapes)


TRAINING = {
    "momentum": {"momentum": 0.9},
    "weight decay": {"weight_decay": 0.01},
    "clipping": {"clip_norm": 0.5},
    "label smoothing": {"label_smoothing": 0.1},
    "all of them": {"momentum": 0.9, "weight_decay": 0.01, "clip_norm": 2.0, "label_smoothing": 0.1},
    "a learning rate that falls": {"lr_schedule": "exponential", "lr_decay": 0.7},
    "the same with momentum": {"lr_schedule": "cosine", "momentum": 0.5},
    "several epochs": {"epochs": 3},
    "epochs that are drawn": {"epochs": 3, "epochs_min": 1},
    "steps": {"steps": 7},
    "no rests": {"drop_last": True, "batch_size": 3},
    "whole shards": {"batch_size": 0, "epochs": 3},
}


@pytest.mark.parametrize("case", TRAINING)
def test_settings_of_the_local_training_are_kept(tapes, case):
    assert_same("cnn", FedAvg(**{"lr": 0.05, "batch_size": 4, **TRAINING[case]}))
    assert tapes


@pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=lambda kind: kind.__name__)
def test_every_algorithm_gives_the_bits_of_the_loop(tapes, kind):
    """With a learning rate that falls, so that none is left in a graph; memories, too."""
    settings = {"lr": 0.02, "batch_size": 4, "lr_schedule": "exponential", "lr_decay": 0.8, "epochs": 2}
    algorithm = make_algorithm(kind, **settings)
    model = "resnet20" if algorithm.personalises and not kind.__name__ == "FedPer" else "lenet5"
    assert_same(model, algorithm, rounds=2 if model == "resnet20" else 3)
    assert tapes or kind.__name__ == "FedSGD"


CORRECTED = {
    "FedProx": FedProx(lr=0.05, batch_size=4, mu=0.5, momentum=0.5),
    "SCAFFOLD": Scaffold(lr=0.05, batch_size=4, momentum=0.5, weight_decay=0.01),
    "SCAFFOLD's option I": Scaffold(lr=0.05, batch_size=4, option="I", clip_norm=1.0),
    "FedDyn": FedDyn(lr=0.05, batch_size=4, alpha=0.5),
    "Ditto": Ditto(lr=0.05, batch_size=4, lam=0.5, personal_epochs=2),
}


@pytest.mark.parametrize("case", CORRECTED)
def test_corrections_read_the_message_and_the_memory_of_their_client(tapes, case):
    assert_same("lenet5", CORRECTED[case], rounds=4)
    assert tapes
