"""Arithmetic that a setting chooses: precision and memory format; and the blueprint that the driver has of a model."""

import numpy as np
import pytest
import torch
from small_data import OF_IMAGES, make_dataset, make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.experiment.composition import compose
from fedray.models import describe
from fedray.models.build import BUILDERS, build, initial_vectors
from fedray.models.model import KNOWN, Model
from fedray.server.task import Task
from fedray.training.evaluate import evaluate
from fedray.training.trainer import Trainer


def after_one_client(dataset, **settings):
    """The update of a client, and the evaluation of the model that it started from.

    Without dropout, whose masks are drawn in the order of memory.
    """
    trainer = Trainer(make_recipe(dataset, "lenet5", **settings))
    params, buffers = initial_vectors(build(Model(name="lenet5"), (3, 32, 32), 10, 3))
    message = {"params": params, "buffers": buffers}
    algorithm = FedAvg(lr=0.05, batch_size=16)
    vectors, _, report = trainer.train(
        Task(algorithm, message, 1, algorithm.lr), 0, dataset.train_images, dataset.train_labels, {}
    )
    measured = evaluate(trainer, message, dataset.test_images, dataset.test_labels)
    return vectors["params"], report.train_loss, sum(measured.losses) / len(dataset.test_labels)


def test_channels_last_is_the_same_but_for_rounding(dataset):
    (update, *losses), (other, *others) = (after_one_client(dataset, channels_last=last) for last in (False, True))
    assert not np.array_equal(update, other)  # it does choose another arithmetic
    np.testing.assert_allclose(other, update, rtol=1e-3, atol=1e-6)
    assert others == pytest.approx(losses, rel=1e-5)


def test_bfloat16_is_near_and_keeps_float32_updates(dataset):
    """bfloat16 has 8 significant bits, so a step is off by about one in a hundred."""
    update, *losses = after_one_client(dataset)
    other, *others = after_one_client(dataset, precision="bfloat16")
    assert other.dtype == np.float32
    assert others == pytest.approx(losses, rel=1e-2)
    assert others != pytest.approx(losses, rel=1e-6)
    cosine = other @ update / np.linalg.norm(update) / np.linalg.norm(other)
    assert 0.99 < cosine < 0.99999


class Uncorrected(FedAvg):
    """Corrects nothing, but the engine cannot know."""

    def correct(self, grad, params, message, memory, lr):
        return grad


@pytest.mark.parametrize("model", ["lenet5", "cnn", "logistic", "resnet18"])
def test_a_step_without_a_flat_gradient_is_the_same_bits(dataset, model):
    def update(algorithm):
        trainer = Trainer(make_recipe(dataset, model, channels_last=model == "cnn"))
        params, buffers = initial_vectors(build(Model(name=model), (3, 32, 32), 10, 3))
        message = {"params": params, "buffers": buffers}
        return trainer.train(Task(algorithm, message, 1, 0.05), 0, dataset.train_images, dataset.train_labels, {})[0]

    one, other = update(FedAvg(batch_size=16)), update(Uncorrected(batch_size=16))
    assert one["params"].tobytes() == other["params"].tobytes()
    assert one["buffers"].tobytes() == other["buffers"].tobytes()


def test_channels_last_is_a_rule_on_the_model():
    tree = {"data": {"dataset": "synthetic"}}
    chosen = [name for name in KNOWN if compose({**tree, "model": {"name": name}}).resolved().model.channels_last]
    assert chosen == ["cnn", "densenet121", "inception_v3"]
    assert compose({**tree, "model": {"name": "mine:net"}}).resolved().model.channels_last is False
    kept = compose({**tree, "model": {"name": "cnn", "channels_last": False}}).resolved()
    assert kept.model.channels_last is False


SMALL = [*(name for name in BUILDERS if name in OF_IMAGES), "resnet18", "googlenet"]


@pytest.mark.parametrize("name", SMALL)
def test_a_blueprint_makes_the_state_dict_of_its_vectors(name):
    blueprint = describe.blueprint(Model(name=name), (3, 32, 32), 10, 4)
    module = build(Model(name=name), (3, 32, 32), 10, 4)
    state = blueprint.state_dict(blueprint.params + 1, blueprint.buffers + 2)
    wanted = module.state_dict()
    assert state.keys() == wanted.keys()
    trained = {key for key, _ in module.named_parameters()}
    for key, tensor in wanted.items():
        more = 1 if key in trained else 2 if tensor.is_floating_point() else 0
        torch.testing.assert_close(torch.from_numpy(state[key]), tensor + more, rtol=0, atol=0)
    assert bool(blueprint.norms) == KNOWN[name].norms


@pytest.mark.parametrize("name", SMALL)
def test_a_projection_head_is_moons(name):
    """Li, He, Song 2021: from the d features through d x d, ReLU, d x width, and from there to the classes."""
    plain, headed = (build(Model(name=name, projection=width), (3, 32, 32), 10, 4) for width in (0, 256))
    kinds = (torch.nn.Linear, torch.nn.ReLU)
    *_, last = [layer for layer in plain.modules() if isinstance(layer, torch.nn.Linear)]
    layers = [layer for layer in headed.modules() if isinstance(layer, kinds)][-4:]
    assert [type(layer) for layer in layers] == [kinds[0], kinds[1], kinds[0], kinds[0]]
    d = last.in_features
    assert [tuple(layers[i].weight.shape) for i in (0, 2, 3)] == [(d, d), (256, d), (10, 256)]
    assert headed.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    trainer = Trainer(make_recipe(make_dataset(), name, projection=256))
    assert trainer.network.features(trainer.network.flat.module.eval(), torch.zeros(2, 3, 32, 32)).shape == (2, 256)
