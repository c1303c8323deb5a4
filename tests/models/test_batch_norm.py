"""BatchNorm of many clients at once, against torch's client by client in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from fedray.models.batch_norm import ManyNorms, Rows

CLIENTS, BATCH, CHANNELS = 4, 6, 3
SIZES = [6, 2, 5, 3]  # of the clients' batches where they are ragged
AREAS = {"a vector": (), "a sequence": (5,), "an image": (4, 5), "a volume": (2, 3, 2), "one pixel": (1, 1)}
LAYERS = {
    "as it is": {},
    "another momentum": {"momentum": 0.3, "eps": 1e-2},
    "no affine part": {"affine": False},
    "no running statistics": {"track_running_stats": False},
    "averages over all batches": {"momentum": None},
    "statistics that stay": {"momentum": 0.0},
}


def stack(layers, name):
    tensors = [getattr(layer, name) for layer in layers]
    return None if tensors[0] is None else torch.stack([tensor.detach() for tensor in tensors])


def many(layers, x, sizes=None, order=0):
    """The layers' outputs for x [A, B, C, ...], as of one program; and the tensors that it read and moved.

    `order` is the dimension in which clients lie in memory.
    """
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    tensors = {name: stack(layers, name) for name in names if getattr(layers[0], name) is not None}
    for name in ("weight", "bias"):
        if name in tensors:
            tensors[name].requires_grad_()
    module, rows = layers[0], None
    if sizes:
        rows = Rows(torch.arange(x.shape[1]) < torch.tensor(sizes)[:, None], min(size for size in sizes if size))
    read = {name: tensor for name, tensor in tensors.items() if name != "num_batches_tracked"}
    unread = {"num_batches_tracked": None} if "running_mean" in tensors else {}
    if module.momentum is None:
        read, unread = tensors, {}
    with ManyNorms({"": module}, rows):
        call = lambda tensors, x: functional_call(module, tensors | unread, (x,))  # noqa: E731
        output = vmap(call, in_dims=(0, order), out_dims=0)(read, x.movedim(0, order))
    return output, tensors


def make(settings, **more):
    torch.manual_seed(0)
    layers = [nn.modules.batchnorm._BatchNorm(CHANNELS, **settings, **more).double() for _ in range(CLIENTS)]
    for layer in layers:
        layer._check_input_dim = lambda x: None
        for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
            tensor.data.uniform_(0.5, 2)
    return layers


def assert_same(layers, settings, area, sizes, order=0, steps=3):
    """Outputs, gradients and statistics of a few steps are those of each layer alone, on the real rows alone."""
    alone = [nn.modules.batchnorm._BatchNorm(CHANNELS, **settings).double() for _ in layers]
    for mine, layer in zip(alone, layers, strict=True):
        mine.load_state_dict(layer.state_dict())
        mine._check_input_dim = lambda x: None
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(CLIENTS, BATCH, CHANNELS, *area, generator=rng, dtype=torch.float64) * 3 + 5
        slope = torch.randn(x.shape, generator=rng, dtype=torch.float64)
        for i, size in enumerate(sizes or ()):
            x[i, size:] = 1e9 * torch.rand(x[i, size:].shape, generator=rng, dtype=torch.float64)
        x.requires_grad_()
        output, tensors = many(layers, x, sizes, order)
        affine = [tensors[name] for name in ("weight", "bias") if name in tensors]
        found = torch.autograd.grad(output, [x, *affine], slope)
        for i, layer in enumerate(alone):
            size = sizes[i] if sizes else BATCH
            own = x[i, :size].detach().requires_grad_()
            wanted = layer(own)
            assert torch.allclose(output[i, :size], wanted, rtol=1e-11, atol=1e-11)
            theirs = torch.autograd.grad(wanted, [own, *layer.parameters()], slope[i, :size])
            assert torch.allclose(found[0][i, :size], theirs[0], rtol=1e-10, atol=1e-10)
            assert not found[0][i, size:].any()
            for one, other in zip(found[1:], theirs[1:], strict=True):
                assert torch.allclose(one[i], other, rtol=1e-10, atol=1e-10)
            for name in ("running_mean", "running_var"):
                if name in tensors:
                    assert torch.allclose(tensors[name][i], getattr(layer, name), rtol=1e-12, atol=1e-12)
                    getattr(layers[i], name).copy_(tensors[name][i])
            if layer.momentum is None and "num_batches_tracked" in tensors:
                assert tensors["num_batches_tracked"][i] == layer.num_batches_tracked
                layers[i].num_batches_tracked.copy_(tensors["num_batches_tracked"][i])
            if settings.get("momentum", 0.1) != 0.0 and "running_mean" in tensors:
                assert not torch.allclose(tensors["running_mean"][i], tensors["running_mean"][i - 1], rtol=1e-3)


@pytest.mark.parametrize("sizes", [None, SIZES], ids=["equal", "ragged"])
@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("area", AREAS.values(), ids=AREAS)
def test_each_client_has_torchs_batch_norm_of_its_own_rows(area, settings, sizes):
    assert_same(make(settings), settings, area, sizes)


@pytest.mark.parametrize("sizes", [None, SIZES], ids=["equal", "ragged"])
@pytest.mark.parametrize("order", [1, 2])
def test_clients_may_lie_in_any_dimension(sizes, order):
    assert_same(make({}), {}, (4, 5), sizes, order)
