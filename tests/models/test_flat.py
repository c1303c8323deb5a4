"""The flat form of a model, and that a module trains inside it as it would outside."""

import copy

import pytest
import torch
from small_data import OF_IMAGES
from torch import nn

from fedray.models.build import build
from fedray.models.flat import FlatModel
from fedray.models.model import Model

LARGE = ("vgg16", "vgg19", "alexnet")  # half a gigabyte of classifier each, and layers that others have


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in OF_IMAGES]
)
def test_every_model_round_trips_and_a_step_changes_it(name):
    """Its vectors, put into another instance, make that the same model to the bit; a step makes it another one."""
    one, other = (FlatModel(build(Model(name=name), (3, 32, 32), 10, seed)) for seed in (0, 1))
    before = {key: value.clone() for key, value in one.module.state_dict().items()}
    images = torch.randn(4, 3, 32, 32)
    one.train()
    output = one.module(images)  # moves the buffers, too
    one.descend(one.gradients(output.square().mean()), lr=1e-3)
    after = one.module.state_dict()
    assert torch.equal(torch.cat([p.detach().flatten() for p in one.module.parameters()]), one.params)
    assert any(not torch.equal(after[name], before[name]) for name in one.layout.names)
    assert all(not torch.equal(after[name], before[name]) for name in one.buffer_layout.names)
    assert one.params.numel() == sum(p.numel() for p in other.module.parameters())
    one.module.eval(), other.module.eval()
    with torch.inference_mode():
        wanted = one.module(images)
        assert not torch.equal(other.module(images), wanted)
        other.load(one.params, one.buffers)
        assert torch.equal(other.module(images), wanted)


def test_gradient_equals_autograd_on_an_ordinary_module():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    plain = copy.deepcopy(module)
    inputs = torch.randn(11, 5)
    grad = FlatModel(module).gradient(module(inputs).square().sum())
    expected = torch.autograd.grad(plain(inputs).square().sum(), list(plain.parameters()))
    assert torch.equal(grad, torch.cat([g.flatten() for g in expected]))


def test_batchnorm_statistics_are_buffers_and_its_counter_is_not():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    flat = FlatModel(module)
    assert flat.buffer_layout.names == ("1.running_mean", "1.running_var")
    module(torch.randn(8, 3, 6, 6) + 5)
    mean, variance = module[1].running_mean, module[1].running_var
    assert torch.equal(flat.buffers, torch.cat([mean, variance]))
    assert not torch.equal(mean, torch.zeros(4))


def test_frozen_parameters_stay_out_and_unchanged():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    frozen = module[0].weight.clone()
    flat = FlatModel(module)
    assert flat.layout.names == ("1.weight", "1.bias")
    flat.params.add_(flat.gradient(module(torch.ones(2, 3)).sum()), alpha=-1)
    assert torch.equal(module[0].weight, frozen)


def test_a_layer_that_is_frozen_whole_keeps_its_statistics_and_one_that_is_not_does_not():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
    module[1].requires_grad_(False)
    module[2].bias.requires_grad_(False)
    flat = FlatModel(module)
    assert flat.layout.names == ("0.weight", "0.bias", "2.weight")
    assert flat.buffer_layout.names == ("2.running_mean", "2.running_var", "3.running_mean", "3.running_var")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flat.train()
    module(torch.randn(8, 3, 6, 6) + 5)
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{i}.{kind}" for i in (2, 3) for kind in ("running_mean", "running_var", "num_batches_tracked")}
    assert [layer.training for layer in module] == [True, False, True, True]


def test_loading_puts_back_what_is_in_neither_vector_and_moves_all_the_same():
    """BatchNorm with momentum = None averages over the batches that it has counted: here those of one client alone."""
    flat = FlatModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None)))
    start, images, found = (flat.params.clone(), flat.buffers.clone()), torch.randn(8, 3), []
    for _ in range(2):
        flat.load(*start)
        assert int(flat.module[1].num_batches_tracked) == 0
        flat.train()
        flat.module(images), flat.module(images + 1)
        found.append(flat.buffers.clone())
    assert int(flat.module[1].num_batches_tracked) == 2
    assert torch.equal(*found)
    assert not torch.equal(found[0], start[1])


def test_a_layer_in_evaluation_mode_stays_so_with_its_buffers():
    module = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Dropout(), nn.Linear(3, 2))
    module.eval()
    module[2].train()
    flat = FlatModel(module)
    flat.train()
    assert [layer.training for layer in module] == [False, False, True]
    assert flat.buffers.numel() == 0
    before = module[0].running_mean.clone()
    module(torch.randn(8, 3) + 5)
    assert torch.equal(module[0].running_mean, before)
