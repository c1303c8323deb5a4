"""Many clients' layers on a GPU: torch's functions replaced so that images stay in one memory format between them.

Inside `with ByTable(...)` torch's functions are replaced when they are called under torch.func.vmap. So this works for
networks of the user's own, too. What is not replaced is done as vmap does it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fedray.data.augment import scale_and_shift
from fedray.training.fused import channelwise
from fedray.training.fused.convolutions import convolve, memory_format
from fedray.training.fused.layers import AsTorchDoes
from fedray.training.fused.layout import new
from fedray.training.spec import Recipe


class ByTable(AsTorchDoes):
    """Convolutions by the table of convolutions.py; the other layers in the memory format that suits them."""

    clients_at = 1

    def __init__(self, recipe: Recipe, module: nn.Module):
        super().__init__(recipe, module)
        model = recipe.model
        self.order = memory_format(model.precision, module)
        self.replaced = replacements(model.precision, self.order, model.is_known)

    @property
    def replace(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        return self.replaced

    def inputs(self, given: torch.Tensor) -> torch.Tensor:
        """uint8 images [A, B, c, h, w] as the models' normalised input [B, A, c, h, w], in one pass.

        Other inputs likewise.
        """
        if self.recipe.kind.inputs != "images":
            return self.normalise(given.transpose(0, 1))
        pixels = given.transpose(0, 1)
        scale, shift = scale_and_shift(self.recipe.mean, self.recipe.std, pixels.device)
        return torch.addcmul(shift, pixels, scale, out=new(pixels, pixels.shape, self.order, torch.float32))


def replacements(
    precision: str, order: torch.memory_format, in_place_may_wait: bool
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """What is called for torch's functions. A value of None means that torch is to compute it.

    With `in_place_may_wait` nothing reads what a ReLU or a sum in place is to overwrite, so that the result may lie
    elsewhere. Autograd then does not copy gradients of views that were changed.
    """
    rectify = partial(channelwise.rectify, order)

    def relu(input: torch.Tensor, inplace: bool = False) -> torch.Tensor | None:  # noqa: A002
        return None if inplace and not in_place_may_wait else rectify(input)

    def add_up(one: torch.Tensor, other: Any, **settings: Any) -> torch.Tensor | None:
        may = in_place_may_wait and not settings and one.dim() > 1  # a counter of batches has to count
        return one + other if may else None

    return {
        F.conv2d: partial(convolve, precision, order),
        F.relu: relu,
        torch.relu: rectify,
        torch.Tensor.relu: rectify,
        F.max_pool2d: partial(channelwise.max_pool, order),
        F.avg_pool2d: partial(channelwise.avg_pool, order),
        F.adaptive_avg_pool2d: partial(channelwise.adaptive_avg_pool, order),
        F.adaptive_max_pool2d: partial(channelwise.adaptive_max_pool, order),
        F.group_norm: partial(channelwise.normalise_groups, precision),
        F.linear: partial(channelwise.linear, precision),
        torch.Tensor.__iadd__: add_up,
        torch.Tensor.add_: add_up,
        torch.cat: partial(channelwise.join, order),
    }
