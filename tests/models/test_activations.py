"""What is kept of images in training, and what building a model takes besides."""

import numpy as np
import pytest
import torch
from small_data import make_dataset, make_recipe
from torch import nn

from fedray.algorithms.moon import Moon
from fedray.models.activations import measure_activations
from fedray.models.build import build, initial_vectors
from fedray.models.describe import blueprint
from fedray.models.flat import FlatModel
from fedray.models.model import KNOWN, Model
from fedray.training.trainer import Trainer

SHAPE = (3, 8, 8)


def test_what_a_small_network_keeps_by_hand():
    """The convolution keeps its input, BatchNorm the convolution's output and what it found of 4 channels (shared by
    the two images), the Linear layer the ReLU's output, which the ReLU keeps, too."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    )
    assert measure_activations(FlatModel(network), SHAPE) == (4 * (192 + 256 + 256 + 4), 4 * 256, False)


def test_of_a_frozen_network_nothing_is_kept_but_its_layers_have_their_size():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False), nn.Flatten(), nn.Linear(256, 2))
    assert measure_activations(FlatModel(network), SHAPE) == (4 * 256, 4 * 256, False)


@pytest.fixture
def two_threads():
    """Another number than the one that measuring sets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["resnet20", "mcmahan_cnn"])
def test_measuring_leaves_everything_as_it_was(two_threads, name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    module = nn.Sequential(build(Model(name=name), (3, 32, 32), 10, 5), nn.Dropout())
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    assert measure_activations(FlatModel(module), (3, 32, 32))[2]  # it did draw
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 2
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize("name", [name for name, facts in KNOWN.items() if facts.norms and facts.least < 75])
def test_a_blueprint_has_the_vectors_of_the_model_as_it_was_built(name):
    found = blueprint(Model(name=name), (3, 32, 32), 10, 5)
    for ours, theirs in zip(
        (found.params, found.buffers), initial_vectors(build(Model(name=name), (3, 32, 32), 10, 5)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert not any(found.others[key].any() for key in found.others if key.endswith("num_batches_tracked"))
    assert found.kept_bytes > found.widest_bytes > 0


def test_models_that_are_compared_share_what_is_frozen():
    """And their features are those of a model that shares nothing."""
    dataset = make_dataset(train=8, test=6, validation=0)
    trainer = Trainer(make_recipe(dataset, "lenet5", freeze="backbone"))
    state = {"params": trainer.network.flat.params + 1, "buffers": trainer.network.flat.buffers}
    references = trainer.network.references(Moon().references(state, state))
    apart = trainer.network.build()
    apart.load(**state)
    images = trainer.network.inputs(torch.from_numpy(dataset.train_images))
    for module in references.values():
        for mine, theirs in zip(trainer.network.flat.module.parameters(), module.parameters(), strict=True):
            shared = mine.data_ptr() == theirs.data_ptr()
            assert shared != mine.requires_grad
        torch.testing.assert_close(module(images), apart.module.eval()(images), rtol=0, atol=0)
