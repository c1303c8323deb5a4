"""The forms of many clients' layers, each against torch's own layer, client by client."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedray.models import dropout
from fedray.models.lora import add_adapter
from fedray.models.model import Model
from fedray.training.fused import convolutions
from fedray.training.fused.convolutions import TABLE, Convolution, convolve, forms_of, memory_format
from fedray.training.fused.forms import ByTable, replacements
from fedray.training.fused.layers import AsTorchDoes, average_pool
from fedray.training.fused.layout import CHANNELS_LAST, CONTIGUOUS, arrange, grouped, is_grouped, new
from fedray.training.spec import Recipe

RECIPE = Recipe(Model(), (3, 9, 11), 10, (0.5,) * 3, (0.25,) * 3, "none", 0, "fused")
ORDERS = {"contiguous": CONTIGUOUS, "channels_last": CHANNELS_LAST}


class In(ByTable):
    """The forms of a GPU, with images between layers in a given memory format."""

    def __init__(self, order, precision="float32", form=None):
        torch.overrides.TorchFunctionMode.__init__(self)
        self.replaced = replacements(precision, order, True)
        if form:

            def chosen(*args, **settings):
                with pytest.MonkeyPatch.context() as patch:
                    forms = (form,) * 3 if isinstance(form, str) else form
                    patch.setitem(convolutions.TABLE, precision, ((float("inf"), forms, forms),))
                    return convolve(precision, order, *args, **settings)

            self.replaced[F.conv2d] = chosen


def compare(form, call, *inputs, clients_at=0, tolerance=1e-12, exact=None):
    """Outputs and gradients of `call` for 3 clients at once, against those client by client.

    `exact` computes what is expected, where that is not `call` in the precision of the inputs.
    """
    inputs = [each.detach().requires_grad_(each.is_floating_point()) for each in inputs]
    with form:
        found = torch.func.vmap(call, in_dims=(clients_at, *[0] * (len(inputs) - 1)))(*inputs)
    alone = [each.transpose(0, clients_at) if i == 0 else each for i, each in enumerate(inputs)]
    wanted = torch.stack([(exact or call)(*(each[client] for each in alone)) for client in range(3)])
    assert torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)
    slope = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(wanted.dtype)
    differentiable = [each for each in inputs if each.requires_grad]
    mine, theirs = (torch.autograd.grad(each, differentiable, slope) for each in (found, wanted))
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance)


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(order, channels=4, size=(9, 11), **settings):
    """Images [B, A, channels, h, w] of two in a batch and three clients, as they lie between layers."""
    made = numbers(2, 3, channels, *size, **settings)
    return new(made, made.shape, order).copy_(made)


CONVOLUTIONS = {
    "a plain one": ((8, 3, 3, 3), {}),
    "with a bias": ((8, 3, 3, 3), {"bias": True}),
    "stride and padding": ((8, 3, 3, 3), {"stride": 2, "padding": 1}),
    "different in each direction": ((4, 3, 5, 2), {"stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)}),
    "a single pixel": ((8, 3, 1, 1), {}),
    "every other pixel": ((8, 3, 1, 1), {"stride": 2}),
    "stride over the edge": ((8, 3, 2, 2), {"stride": 3}),
    "as wide as the image": ((8, 3, 9, 11), {}),
    "one channel out": ((1, 3, 3, 3), {"bias": True}),
    "one that sees little but padding": ((4, 3, 19, 3), {"padding": (9, 1), "bias": True}),
    "groups": ((6, 1, 3, 3), {"groups": 3}),
    "padding by name": ((8, 3, 3, 3), {"padding": "same"}),
}
FORMS = {
    "torch's": None,
    **{
        f"{form}, {name}": (form, order)
        for form in ("products", "contiguous", "grouped", "split")
        for name, order in ORDERS.items()
    },
    "one each way": (("grouped", "products", "contiguous"), CHANNELS_LAST),
    "another each way": (("products", "contiguous", "grouped"), CHANNELS_LAST),
    "a third each way": (("contiguous", "grouped", "products"), CHANNELS_LAST),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_of_each_client_is_its_own(case, form):
    """Outputs and both gradients, in float64; in float32 where it is split."""
    shape, settings = CONVOLUTIONS[case]
    settings = dict(settings)
    used = settings.pop("bias", False)
    is_split = form.startswith("split")
    x, weight, bias = numbers(3, 2, 3, 9, 11), numbers(3, *shape, seed=1), numbers(3, shape[0], seed=2)
    if is_split:
        x, weight, bias = x.float(), weight.float(), bias.float()
    call = (lambda x, w, b: F.conv2d(x, w, b, **settings)) if used else (lambda x, w: F.conv2d(x, w, **settings))
    mode = In(FORMS[form][1], form=FORMS[form][0]) if FORMS[form] else AsTorchDoes(RECIPE, nn.Identity())
    compare(mode, call, *(x, weight, bias) if used else (x, weight), tolerance=1e-4 if is_split else 1e-12)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_frozen_convolution_is_computed_once_for_all_clients(order):
    x, weight, bias = numbers(3, 2, 3, 9, 11), numbers(8, 3, 3, 3), numbers(3, 8)
    with In(order):
        found = torch.func.vmap(lambda x, b: F.conv2d(x, weight, b, padding=1))(x, bias)
        alone = torch.func.vmap(lambda x: F.conv2d(x, weight, padding=1))(x)
    wanted = F.conv2d(x.flatten(0, 1), weight, padding=1).unflatten(0, (3, 2))
    assert torch.allclose(alone, wanted, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found, wanted + bias[:, None, :, None, None], rtol=1e-12, atol=1e-12)


WEIGHTS = numbers(4)
LAYERS = {
    "ReLU": torch.relu,
    "ReLU by its functional": F.relu,
    "ReLU in place": lambda x: F.relu(x + 0, inplace=True),
    "a sum in place, scaled": lambda x: (x + 0).add_(x, alpha=2),
    "max-pooling": partial(F.max_pool2d, kernel_size=2),
    "max-pooling that overlaps": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average pooling": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "the mean": partial(F.adaptive_avg_pool2d, output_size=1),
    "adaptive pooling that divides": partial(F.adaptive_avg_pool2d, output_size=(3, None)),
    "adaptive pooling that does not": partial(F.adaptive_avg_pool2d, output_size=(4, 5)),
    "adaptive pooling to more": partial(F.adaptive_avg_pool2d, output_size=16),
    "adaptive max-pooling": partial(F.adaptive_max_pool2d, output_size=(3, 11)),
    "adaptive max-pooling that does not divide": partial(F.adaptive_max_pool2d, output_size=(4, 5)),
    "channels after channels": lambda x: torch.cat([x, 2 * x, x[:, :1]], 1),
    "channels after some that all have": lambda x: torch.cat([x, torch.ones(2, 1, 9, 11, dtype=x.dtype)], dim=-3),
    "images after images": lambda x: torch.cat([x, 2 * x]),
    "normalised without weights": partial(F.group_norm, num_groups=2),
    "weights that all have": lambda x: F.group_norm(x, 2, WEIGHTS, 2 * WEIGHTS),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("lies", [*ORDERS, "a client's images together"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_of_each_client_is_its_own(layer, lies, order):
    """However the images lie in memory."""
    x = images(ORDERS[lies]) if lies in ORDERS else images(CONTIGUOUS).transpose(0, 1).contiguous().transpose(0, 1)
    compare(In(order), LAYERS[layer], x, clients_at=1)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_of_each_client_is_its_own(groups, order):
    call = lambda x, w, b: F.group_norm(x, groups, w, b, 1e-3)  # noqa: E731
    compare(In(order), call, images(order), numbers(3, 4, seed=1), numbers(3, 4, seed=2), clients_at=1)


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_of_each_client_is_its_own(bias):
    """After images in either memory format, and for what has no images before it."""
    tensors = numbers(3, 6, 4 * 99, seed=1), numbers(3, 6, seed=2)
    call = (lambda x, w, b: F.linear(x.flatten(1), w, b)) if bias else (lambda x, w: F.linear(x.flatten(1), w))
    for order in ORDERS.values():
        compare(In(order), call, images(order), *tensors[: 1 + bias], clients_at=1)
    call = (lambda x, w, b: F.linear(x[0], w, b)) if bias else (lambda x, w: F.linear(x[0], w))
    compare(In(CONTIGUOUS), call, numbers(3, 2, 4 * 99), *tensors[: 1 + bias])


def test_a_frozen_linear_layer_is_computed_for_all_clients():
    x, weight, bias = numbers(3, 2, 5), numbers(4, 5), numbers(3, 4)
    with In(CONTIGUOUS):
        found = torch.func.vmap(lambda x, b: F.linear(x, weight, b))(x, bias)
        alone = torch.func.vmap(lambda x: F.linear(x, weight))(x)
    assert torch.allclose(alone, x @ weight.T, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found, x @ weight.T + bias[:, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, (3, 4), (None, 2), (9, 11), 16])
def test_average_pooling_is_torchs(size):
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    found, wanted = average_pool(x, size), F.adaptive_avg_pool2d(x, size)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    slope = torch.randn(wanted.shape, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad(each, x, slope)[0] for each in (found, wanted))
    assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_input_of_a_users_relu_in_place_is_changed():
    """Such as has its input elsewhere, too, which is the shortcut of some residual networks."""

    def call(x):
        x = x + 0
        y = F.relu(x, inplace=True)
        return x + y

    mode = In(CHANNELS_LAST)
    mode.replaced = replacements("float32", CHANNELS_LAST, False)
    compare(mode, call, images(CHANNELS_LAST), clients_at=1)


# Memory.


@pytest.mark.parametrize(("one", "other"), [*itertools.product(ORDERS.values(), repeat=2)])
def test_images_are_copied_only_to_another_memory_format(one, other):
    x = images(one)
    found = grouped(x, other)
    assert found.is_contiguous(memory_format=other)
    assert torch.equal(found.unflatten(1, (3, 4)), x)
    assert (found.data_ptr() == x.data_ptr()) == is_grouped(x, other) == (one == other)
    assert grouped(x, other, torch.float32).dtype == torch.float32
    x.requires_grad_()
    slope = numbers(2, 12, 9, 11, seed=3)
    assert torch.equal(torch.autograd.grad(arrange(x, other), x, slope)[0], slope.unflatten(1, (3, 4)))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_between_layers_images_lie_in_the_networks_memory_format(order):
    """Convolutions in all forms that keep it, ReLU, pooling and joined channels; whatever lay before them."""
    seen = []

    def look(x):
        seen.append(torch._C._functorch.get_unwrapped(x).movedim(torch._C._functorch.maybe_get_bdim(x), 1))
        return x

    def call(x, w, b):
        for form in ("grouped", "split", "products", "contiguous"):
            with In(order, form=form):
                x = look(F.conv2d(x, w, b, padding=1))
        with In(order):
            x = look(torch.relu(F.group_norm(x, 2)))
            x = look(F.max_pool2d(x, 2))
            return look(torch.cat([x, x], 1))

    torch.func.vmap(call, in_dims=(1, 0, 0))(
        images(order, dtype=torch.float32), numbers(3, 4, 4, 3, 3).float(), numbers(3, 4).float()
    )
    assert len(seen) == 7
    assert all(is_grouped(x, order) for x in seen)


# The table.


def test_the_table_has_a_form_for_every_number_of_channels():
    for rows in TABLE.values():
        bounds = [bound for bound, *_ in rows]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf")
    assert [forms_of("float32", channels)[0] for channels in (1, 3, 15, 16, 64, 255, 256, 512)] == [
        *["contiguous"] * 3, *["grouped"] * 3, *["products"] * 2,
    ]  # fmt: skip
    assert forms_of("float32", 64) == ("grouped", "grouped", "contiguous")
    assert forms_of("float32", 64, (2, 2)) == ("products", "products", "products")
    assert [forms_of("tf32", channels)[0] for channels in (3, 15, 16, 2048)] == ["products"] * 2 + ["grouped"] * 2
    assert [forms_of("float32_3xtf32", n)[0] for n in (3, 31, 32, 512)] == ["contiguous", "grouped", "split", "split"]
    assert set(TABLE) == set(Model.__dataclass_fields__["precision"].type.__args__)


def network(*channels, groups=1):
    return nn.Sequential(*(nn.Conv2d(n, 64, 3, groups=groups) for n in channels), nn.Linear(2, 2))


def test_a_network_has_one_memory_format():
    for precision in TABLE:
        assert memory_format(precision, network(3, 64)) == CHANNELS_LAST
        assert memory_format(precision, network(3, 6) if precision != "bfloat16" else network(3, 32)) == CONTIGUOUS
        assert memory_format(precision, network()) == memory_format(precision, network(64, groups=2)) == CONTIGUOUS
    assert memory_format("float32", network(3, 32)) == CHANNELS_LAST


# float32 as three TF32 products.


def as_tf32(x):
    """x with the mantissa of TF32, rounded to nearest, as a GPU's tensor cores read it; ties away from zero."""
    return (x.view(torch.int32) + 0x1000 & -0x2000).view(torch.float32)


def errors(precision, x, weight, slope, exact):
    """The largest errors of output and gradients, relative to the largest number in each."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    with In(CHANNELS_LAST, precision):
        out = torch.func.vmap(partial(F.conv2d, padding=1), in_dims=(1, 0))(x, weight)
    found = out.detach(), *torch.autograd.grad(out, (x, weight), slope)
    return [float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, exact, strict=True)]


def test_float32_as_three_tf32_products_is_as_accurate_as_float32(monkeypatch):
    """Where a GPU would compute in TF32, the operands are rounded here by hand. Sums are float32's."""
    x = images(CHANNELS_LAST, channels=64, size=(8, 8), dtype=torch.float32)
    weight, slope = numbers(3, 64, 64, 3, 3, seed=1).float(), numbers(3, 2, 64, 8, 8, seed=2).float()
    wide = x.double().requires_grad_(), weight.double().requires_grad_()
    out = torch.stack([F.conv2d(wide[0][:, i], wide[1][i], padding=1) for i in range(3)])
    exact = out.detach(), *torch.autograd.grad(out, wide, slope.double())
    plain = errors("float32", x, weight, slope, exact)
    real_of, real_slopes = Convolution.of, Convolution.slopes
    monkeypatch.setattr(Convolution, "of", lambda self, x, w, n: real_of(self, as_tf32(x), as_tf32(w), n))
    monkeypatch.setattr(
        Convolution,
        "slopes",
        lambda self, slope, x, w, n, wanted: real_slopes(self, as_tf32(slope), as_tf32(x), as_tf32(w), n, wanted),
    )
    split, rounded = errors("float32_3xtf32", x, weight, slope, exact), errors("float32", x, weight, slope, exact)
    for in_float32, in_three, in_tf32 in zip(plain, split, rounded, strict=True):
        assert in_three < 4 * in_float32 < 1e-5
        assert in_tf32 > 50 * in_three


def test_the_parts_of_a_split_number_add_up_to_it():
    x = torch.cat([numbers(1000).float(), torch.tensor([0.0, -0.0, 1e-30, 3e38, 1 + 2**-11, 1 + 2**-12])])
    for low, high in ((2, (0, 1)), (1, (0, 2))):
        parts = torch.empty(3, len(x))
        convolutions.split(x, parts, low)
        assert torch.equal(parts[high[0]], as_tf32(x)) and torch.equal(parts[high[1]], as_tf32(x))
        assert torch.equal(parts[low] + parts[high[0]], x)
        assert bool((parts[low].abs() <= 2.0**-11 * x.abs()).all())


def test_tf32_is_on_for_the_three_products_alone(monkeypatch):
    flag, seen = torch.backends.cudnn.conv, []
    before = flag.fp32_precision
    flag.fp32_precision = "ieee"
    real_of, real_slopes = Convolution.of, Convolution.slopes

    def noting(real):
        def call(self, *args):
            seen.append((self.forms[0], flag.fp32_precision))
            return real(self, *args)

        return call

    monkeypatch.setattr(Convolution, "of", noting(real_of))
    monkeypatch.setattr(Convolution, "slopes", noting(real_slopes))
    for channels, wanted in ((3, [("contiguous", "ieee")] * 3), (32, [("split", "tf32")] * 3)):
        seen.clear()
        x = images(CHANNELS_LAST, channels=channels, dtype=torch.float32).requires_grad_()
        weight = numbers(3, 5, channels, 3, 3).float().requires_grad_()
        with In(CHANNELS_LAST, "float32_3xtf32"):
            out = torch.func.vmap(F.conv2d, in_dims=(1, 0))(x, weight)
        torch.autograd.grad(out, (x, weight), torch.ones_like(out))
        assert seen == wanted
        assert flag.fp32_precision == "ieee"
    flag.fp32_precision = before


# Dropout.


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("shape", [(4, 9, 11), (7,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_in_few_launches_has_the_same_bits(monkeypatch, shape, dtype, order):
    """For one client and for many, in two uses of a layer, and so has its gradient."""
    layer = dropout.KeyedDropout(0.3, False)
    keys = torch.from_numpy(dropout.dropout_keys(1, 1, 0, 3, 1))[:, 0]
    x = numbers(2, 3, *shape).to(dtype)
    x = new(x, x.shape, order).copy_(x) if len(shape) == 3 else x

    def twice(x, key):
        layer.key, layer.calls = key, 0
        try:
            return layer(x) + 2 * layer(x)
        finally:
            layer.key = None

    def outcome():
        inputs = x.detach().requires_grad_()
        alone = torch.stack([twice(inputs[:, i], keys[i]) for i in range(3)])
        many = torch.func.vmap(twice, in_dims=(1, 0))(inputs, keys)
        assert torch.equal(alone, many)
        slope = numbers(3, 2, *shape, seed=5).to(dtype)
        found = [alone, *(torch.autograd.grad(each, inputs, slope)[0] for each in (alone, many))]
        return [each.detach().float().contiguous().numpy().tobytes() for each in found]

    usual = outcome()
    monkeypatch.setattr(dropout, "IN_FEW_LAUNCHES", {"cpu"})
    assert outcome() == usual


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2, "padding": 1, "dilation": 2}])
def test_an_adapted_convolution_is_of_one_kernel_and_of_each_clients_adapter(order, settings):
    """The kernel is frozen, so that all clients have it."""
    layer = nn.Conv2d(4, 6, 3, **settings).double().requires_grad_(False)
    add_adapter(layer, 2, 0.5)

    def call(x, low, high):
        return torch.func.functional_call(layer, {"lora_A": low, "lora_B": high}, (x,))

    adapters = numbers(3, 2, 4, 3, 3, seed=1), numbers(3, 6, 2, 1, 1, seed=2)
    compare(In(ORDERS[order]), call, images(ORDERS[order]), *adapters, clients_at=1)
