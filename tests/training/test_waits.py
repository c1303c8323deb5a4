"""Nothing makes the host wait for a device while a block trains: numbers go there, and come back, in transfer.py alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
from small_data import make_algorithm, make_dataset, make_recipe
from torch.utils._python_dispatch import TorchDispatchMode

import fedray
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.scaffold import Scaffold
from fedray.models.build import build, initial_vectors
from fedray.server.task import Task
from fedray.training.block import train_block
from fedray.training.shards import Shards
from fedray.training.trainer import Trainer

PACKAGE = Path(fedray.__file__).parent
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::item"}
"""Operations whose result the host reads, or whose shape depends on values."""


class Watch(TorchDispatchMode):
    """Notes what copies to or from a device, or waits for one, with the line of fedray that asked for it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name, kwargs or {}
        copies = name == "aten::_to_copy" and kwargs.get("device") is not None
        crosses = name == "aten::copy_" and args[0].device != args[1].device
        if name in READS or copies or crosses:
            self.found.append((name, asked_by()))
        return func(*args, **kwargs)


def asked_by():
    """The innermost line of fedray in the stack."""
    frame = sys._getframe()
    while frame and not Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "nobody"


def waits(engine, model, algorithm, augment="crop-flip-cutout"):
    """What a block's second round does of this kind outside transfer.py."""
    dataset = make_dataset(train=18, test=6, validation=0)
    recipe = make_recipe(dataset, model, augment, engine=engine)
    trainer = Trainer(recipe, "cpu:0")
    rows = [np.arange(0, 6), np.arange(6, 9), np.arange(9, 18)]
    shards = Shards(recipe, "cpu:0", dataset.train_images, dataset.train_labels, rows)
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    memories, watch = [{}] * 3, Watch()
    for t in (1, 2):
        task = Task(algorithm, algorithm.broadcast(state, t), t, 0.01)
        if t == 2:
            with watch:
                train_block(trainer, task, [0, 1, 2], shards.of, memories, summed=True)
        else:
            _, memories = train_block(trainer, task, [0, 1, 2], shards.of, memories, summed=True)
    # Where the plain engine takes images to their device, they are there already; torch copies to "cpu:0" all the same.
    there = ("transfer.py:", "network.py:", "batches.py:") if engine == "plain" else ("transfer.py:",)
    return [(name, place) for name, place in watch.found if not place.startswith(there)]


@pytest.mark.parametrize("model", ["lenet5", "cnn", "mlp"])
@pytest.mark.parametrize("algorithm", [FedAvg(lr=0.01, batch_size=4), make_algorithm(Scaffold, batch_size=4)])
def test_the_fused_engine_never_waits(model, algorithm):
    assert waits("fused", model, algorithm) == []


@pytest.mark.parametrize("model", ["lenet5", "cnn", "resnet20"])
def test_the_plain_engine_never_waits(model):
    assert waits("plain", model, FedAvg(lr=0.01, batch_size=4)) == []


def test_what_waits_is_seen():
    class Reads(FedAvg):
        def correct(self, grad, params, message, memory, lr):
            return grad * (float(grad.sum()) < 1e9)

    found = waits("fused", "lenet5", Reads(lr=0.01, batch_size=4))
    assert {name for name, _ in found} == {"aten::_local_scalar_dense"}
