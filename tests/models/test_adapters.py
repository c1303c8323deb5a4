"""Low-rank adapters: h = W x + (alpha / r) B A x."""

import numpy as np
import pytest
import torch
from torch import nn

from fedray.core.errors import BadInputError
from fedray.models import lora
from fedray.models.build import build
from fedray.models.merging import merge
from fedray.models.model import Model

LAYERS = {
    "linear": (lambda: nn.Linear(12, 5), (7, 12)),
    "linear without bias, of series": (lambda: nn.Linear(12, 5, bias=False), (7, 3, 12)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8)),
    "conv with a stride, wide, of an uneven kernel": (lambda: nn.Conv2d(4, 6, (3, 2), stride=2, dilation=2), (2, 4, 9, 9)),
    "conv with reflected padding": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_an_adapted_layer_is_the_layer_with_w_plus_b_a_over_r(kind):
    """alpha = 3 and r = 2; what is merged into W gives the same within rounding, and at the start the same bits."""
    make, shape = LAYERS[kind]
    torch.manual_seed(1)
    layer, x = make(), torch.randn(shape)
    plain = layer(x)
    lora.add_adapter(layer, 2, 3 / 2)
    assert torch.equal(layer(x), plain)
    with torch.no_grad():
        layer.lora_B.normal_()
    assert not torch.allclose(layer(x), plain, atol=1e-2)
    tensors = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    product = np.einsum("or,r...->o...", tensors["lora_B"].reshape(len(tensors["lora_B"]), 2), tensors["lora_A"])
    merged = make()
    merged.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in merge(tensors, 3.0).items()})
    np.testing.assert_allclose(merged.weight.detach(), tensors["weight"] + 1.5 * product, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer(x), merged(x), rtol=1e-5, atol=1e-5)


def test_a_begins_as_loralib_has_it_and_b_at_zero():
    """Kaiming's uniform with a = sqrt(5): within 1 / sqrt(fan in), which is 4 x 3 x 3 here."""
    layer = nn.Conv2d(4, 6, 3)
    lora.add_adapter(layer, 50, 1.0)
    assert layer.lora_A.shape == (50, 4, 3, 3) and layer.lora_B.shape == (6, 50, 1, 1)
    assert not layer.lora_B.any()
    assert 0.95 / 6 < layer.lora_A.abs().max() <= 1 / 6


def adapted(module, **settings):
    lora.adapt(module, Model(lora_rank=2, **settings), settings.pop("trained", ()))
    return module


def attention():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)


def test_an_encoder_layer_has_its_adapters_in_evaluation_too():
    """torch has a fast path there, which reads weights and calls no layer; out_proj is read so in any mode."""
    layer = adapted(attention())
    assert {name for name, each in layer.named_modules() if hasattr(each, "lora_A")} == {"linear1", "linear2"}
    with torch.no_grad():
        layer.linear1.lora_B.normal_()
        layer.linear2.lora_B.normal_()
        x = torch.randn(3, 5, 8)
        torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_layers_that_have_none_are_named():
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(BadInputError, match="names 0, a convolution in 2 groups"):
        adapted(grouped)
    assert type(adapted(grouped, lora_layers="2")[2]) is lora.AdaptedLinear
    with pytest.raises(BadInputError, match="lora_layers: 'linaer1' is the name of no .*; did you mean linear1"):
        adapted(attention(), lora_layers="linaer1")
    with pytest.raises(BadInputError, match="lora_layers: '7' is the name of no .*; there are 0"):
        adapted(nn.Sequential(nn.Linear(3, 3)), lora_layers="7")
    with pytest.raises(BadInputError, match="adapts no layer, since model.trainable = '0.*'"):
        lora.adapt(nn.Sequential(nn.Linear(3, 3)), Model(lora_rank=2, trainable="0.*"), {"0.weight"})


@pytest.mark.parametrize("name", ["lenet5", "cnn", "resnet20"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_with_adapters_begins_as_the_one_without_to_the_bit(name, precision, tmp_path):
    base = build(Model(name=name), (3, 32, 32), 10, 5)
    torch.save(base.state_dict(), tmp_path / "base.pt")
    settings = {"name": name, "init": str(tmp_path / "base.pt")}
    one = build(Model(**settings), (3, 32, 32), 10, 0).eval()
    other = build(Model(**settings, lora_rank=3, lora_alpha=7), (3, 32, 32), 10, 0).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        assert torch.equal(one(x), other(x))
    assert [n for n, p in other.named_parameters() if p.requires_grad] == [
        n for n, _ in other.named_parameters() if "lora_" in n
    ]
