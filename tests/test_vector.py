"""The flat form of a model, and that a module trains inside it as it would outside."""

import copy

import pytest
import torch
from torch import nn

from fedray.networks import BUILDERS
from fedray.vector import FlatModel


@pytest.mark.parametrize("name", BUILDERS)
def test_every_model_round_trips_and_a_step_changes_it(name):
    torch.manual_seed(0)
    module = BUILDERS[name]((3, 32, 32), 10)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flat = FlatModel(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert flat.params.numel() == sum(p.numel() for p in module.parameters())
    params, buffers = flat.params.clone(), flat.buffers.clone()
    loss = module(torch.randn(4, 3, 32, 32)).square().mean()
    flat.params.add_(flat.gradient(loss), alpha=-0.1)
    assert not torch.equal(flat.params, params)
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), flat.params)
    flat.load(params, buffers)
    after = module.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if before[key].is_floating_point())


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
