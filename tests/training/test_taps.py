"""Kernels without the places that see nothing but padding give what torch's convolution gives with all of them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from small_data import make_dataset, make_recipe

from fedray.training.network import Network
from fedray.training.taps import Trimmed, seen, trimmed

SETTINGS = list(itertools.product([1, 2, 3, 5], [1, 2, 3, 5, 7], [1, 2, 3], [0, 1, 2, 3], [1, 2]))


def test_what_is_left_out_changes_no_output_and_no_gradient():
    """Every small side, kernel, stride, padding and dilation, in float64."""
    left_out = 0
    for side, kernel, stride, padding, dilation in SETTINGS:
        if side + 2 * padding < dilation * (kernel - 1) + 1:
            continue
        torch.manual_seed(0)
        x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
        wanted = F.conv2d(x, weight, bias, stride, padding, dilation)
        with Trimmed():
            found = F.conv2d(x, weight, bias, stride, padding, dilation)
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
        slope = torch.randn_like(wanted)
        for one, other in zip(
            torch.autograd.grad(found, (x, weight, bias), slope),
            torch.autograd.grad(wanted, (x, weight, bias), slope),
            strict=True,
        ):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
        left_out += seen(side, kernel, stride, padding, dilation) != (0, kernel)
    assert left_out > 50


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "wanted"),
    [(1, 3, 1, 1, (1, 2)), (2, 3, 2, 1, (1, 3)), (2, 3, 1, 1, (0, 3)), (1, 7, 2, 3, (3, 4)), (32, 7, 2, 3, (0, 7))],
)
def test_the_places_that_see_a_pixel(side, kernel, stride, padding, wanted):
    assert seen(side, kernel, stride, padding, 1) == wanted


def test_a_kernel_that_sees_everywhere_is_the_same_tensor():
    weight = torch.randn(4, 3, 3, 3)
    assert trimmed(torch.randn(2, 3, 8, 8), weight, (1, 1), (1, 1), (1, 1)) == (weight, (1, 1))


def test_a_deep_network_with_trimmed_kernels_is_the_same_network():
    dataset = make_dataset(train=6, test=6, validation=0)
    network = Network(make_recipe(dataset, "resnet18"))
    network.flat.module.eval()
    inputs = network.inputs(torch.from_numpy(dataset.train_images))
    (wanted,) = network.outputs(network.flat.module, inputs)
    assert not network.trims  # on a CPU
    network.trims = True
    (found,) = network.outputs(network.flat.module, inputs)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, wanted)  # they were trimmed
