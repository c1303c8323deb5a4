"""A round of every model on images of every shape that a data set has, with 10 and with 100 classes."""

import numpy as np
import pytest
from small_data import OF_IMAGES, make_dataset, make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.models.model import KNOWN
from fedray.server.rounds import play_rounds
from fedray.training.in_process import InProcessPopulation

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 64, 64)]
HEAVY = {"vgg16", "vgg19"}  # whose vectors are half a gigabyte: slow wherever memory is; their layers are vgg11's
SECONDS = {
    "alexnet",
    "resnet50",
    "densenet121",
    "inception_v3",
}  # other shapes and 100 classes change them as the others


def cases():
    for name in OF_IMAGES:
        for shape in SHAPES:
            slow = name in HEAVY or (name in SECONDS and shape != (3, 32, 32))
            yield pytest.param(name, shape, 10, marks=pytest.mark.slow if slow else (), id=f"{name}-{shape}")
        if name not in HEAVY:
            marks = pytest.mark.slow if name in SECONDS else ()
            yield pytest.param(name, (3, 32, 32), 100, marks=marks, id=f"{name}-100 classes")


@pytest.mark.parametrize(("name", "shape", "classes"), list(cases()))
def test_a_round_of_every_model_on_every_shape(name, shape, classes):
    """Two clients of four images each; what they send is finite, and changes all there is to change."""
    dataset = make_dataset(train=8, test=6, classes=classes, side=shape[1], channels=shape[0], validation=0)
    algorithm = FedAvg(lr=0.01, batch_size=4)
    population = InProcessPopulation(dataset, [np.arange(4), np.arange(4, 8)], make_recipe(dataset, name), 1)
    flat = population.trainer.network.flat
    state = algorithm.init(flat.params.numpy().copy(), flat.buffers.numpy().copy())
    (done,) = play_rounds(algorithm, population, state, ts=[1], rounds=1, cohort=2, seed=3)
    assert [report.status for report in done.updates.reports] == ["ok", "ok"]
    assert all(np.isfinite(vector).all() for vector in done.state.values())
    assert np.mean(done.state["params"] != state["params"]) > 0.2
    assert bool(state["buffers"].size) == KNOWN[name].norms
    assert (done.state["buffers"] != state["buffers"]).all()
    found = population.evaluate(done.state)
    assert np.isfinite(found.loss)
    assert 0 <= found.accuracy <= 1
