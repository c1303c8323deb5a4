"""Low-rank adapters: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021, "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv 2106.09685, section 4.1.

    h = W x + (alpha / r) B A x,        A in R^{r x in},  B in R^{out x r}

W stays as it is. A begins with random numbers and B at 0, so that the network begins as it was. For a convolution A is
one to r channels with the layer's own kernel, stride, padding and dilation, and B one of 1 x 1 pixels. B A is then a
kernel of the layer's shape, too.

An adapted layer is still a Linear or a Conv2d, under its own name, and its tensors have theirs: `fc.weight`, beside
`fc.lora_A` and `fc.lora_B`.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fedray.core.errors import BadInputError
from fedray.models.merging import A, B
from fedray.models.model import Model
from fedray.models.patterns import all_fitting


class AdaptedLinear(nn.Linear):
    """A Linear with an adapter."""

    lora_A: nn.Parameter  # noqa: N815  the paper's letters, and loralib's names
    """[r, in]"""
    lora_B: nn.Parameter  # noqa: N815
    """[out, r]"""
    lora_scale: float
    """alpha / r"""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  as nn.Linear
        low = F.linear(F.linear(input, self.lora_A), self.lora_B)
        return super().forward(input) + self.lora_scale * low


class AdaptedConv2d(nn.Conv2d):
    """A Conv2d with an adapter."""

    lora_A: nn.Parameter  # noqa: N815
    """[r, in, height, width]"""
    lora_B: nn.Parameter  # noqa: N815
    """[out, r, 1, 1]"""
    lora_scale: float

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  as nn.Conv2d
        low = F.conv2d(self._conv_forward(input, self.lora_A, None), self.lora_B)
        return super().forward(input) + self.lora_scale * low


ADAPTED: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: AdaptedLinear, nn.Conv2d: AdaptedConv2d}
"""The kinds of layers that can be adapted. Classes below them are not: nn.MultiheadAttention has a Linear of its own
kind, reads its weight and never calls it."""


def adapt(module: nn.Module, model: Model, trained: Collection[str]) -> set[str]:
    """Give the layers that model.lora_layers names an adapter each. Returns the names of the adapters' parameters.

    A layer whose weight is among `trained`, the names of the parameters that are trained whole, gets none. The
    adapters' A are drawn from torch's generator, layer by layer. BadInputError where no layer can be adapted.
    """
    able = {name: layer for name, layer in module.named_modules() if type(layer) in ADAPTED}
    chosen = all_fitting(model.lora_layers, list(able), "model.lora_layers", "Linear or Conv2d layer")
    layers = {name: able[name] for name in able if name in chosen and f"{name}.weight" not in trained}
    if not layers:
        raise BadInputError(
            f"model.lora_rank = {model.lora_rank} adapts no layer, since model.trainable = {model.trainable!r} trains "
            f"all that model.lora_layers = {model.lora_layers!r} names"
        )
    for name, layer in layers.items():
        if getattr(layer, "groups", 1) != 1:
            raise BadInputError(
                f"model.lora_layers = {model.lora_layers!r} names {name}, a convolution in {layer.groups} groups, and "
                "those have no adapter; name the others"
            )
        add_adapter(layer, model.lora_rank, model.lora_scale)
    skip_fast_path(module)
    return {f"{name}.{leaf}" for name in layers for leaf in (A, B)}


def add_adapter(layer: Any, rank: int, scale: float) -> None:
    """Make a layer one with an adapter, in place, as torch's parametrizations do: by another class.

    So whoever holds it, and whatever hooks it has, stays. A begins as loralib has it, B at 0.
    """
    out, read, *kernel = layer.weight.shape
    layer.__class__ = ADAPTED[type(layer)]
    layer.lora_A = nn.Parameter(layer.weight.new_empty(rank, read, *kernel))
    layer.lora_B = nn.Parameter(layer.weight.new_zeros(out, rank, *[1] * len(kernel)))
    layer.lora_scale = scale
    nn.init.kaiming_uniform_(layer.lora_A, a=math.sqrt(5))


def skip_fast_path(module: nn.Module) -> None:
    """Have nn.TransformerEncoderLayers call their adapted layers in evaluation, too.

    Their fast path reads the weights alone. They leave it where a layer within has a hook.
    """
    for encoder in module.modules():
        if isinstance(encoder, nn.TransformerEncoderLayer):
            for layer in encoder.modules():
                if isinstance(layer, AdaptedLinear):
                    layer.register_forward_pre_hook(pass_on)


def pass_on(_: nn.Module, __: tuple[torch.Tensor, ...]) -> None:
    """A hook that changes nothing."""
