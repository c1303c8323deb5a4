"""Many clients' layers on a CPU: torch.func.vmap's own way, where that is the same on every device.

Inside `with AsTorchDoes():` torch's functions are replaced when they are called. So this works for networks of the
user's own, too. forms.py has the layers on a GPU.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from fedray.data.augment import normaliser
from fedray.training.spec import Recipe


class AsTorchDoes(TorchFunctionMode):
    """Everything as vmap does it, but for adaptive pooling. vmap makes convolutions into one with a group a client."""

    clients_at = 0
    """The dimension of the clients in `inputs`."""

    def __init__(self, recipe: Recipe, module: nn.Module):
        super().__init__()
        self.recipe, self.module = recipe, module
        self.normalise = normaliser(recipe.kind, len(recipe.shape), recipe.mean, recipe.std)

    def inputs(self, given: torch.Tensor) -> torch.Tensor:
        """uint8 images [A, B, c, h, w], values or token ids [A, B, ...] as the model's input, normalised."""
        inputs = self.normalise(given)
        if not self.recipe.model.channels_last:
            return inputs
        return inputs.flatten(0, 1).contiguous(memory_format=torch.channels_last).view_as(inputs)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = self.replace.get(func)
        made = replaced(*args, **(kwargs or {})) if replaced else None
        return func(*args, **(kwargs or {})) if made is None else made

    @property
    def replace(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        return {F.adaptive_avg_pool2d: average_pool}


def average_pool(x: torch.Tensor, output_size: int | tuple[int | None, int | None] | None) -> torch.Tensor:
    """F.adaptive_avg_pool2d, as products with a matrix of averages for each direction.

    It is the same on every device. The gradient of torch's own is not deterministic on GPUs.
    """
    sizes = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    rows, columns = (
        averages(there, wanted or there, x.device, x.dtype) for there, wanted in zip(x.shape[-2:], sizes, strict=True)
    )
    return rows @ x @ columns.T


@cache  # for good, since a CUDA graph may read it
def averages(length: int, wanted: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The matrix [wanted, length] of PyTorch's adaptive pooling.

    Row i averages from element floor(i * length / wanted) up to, but without, ceil((i + 1) * length / wanted).
    """
    matrix = torch.zeros(wanted, length, dtype=torch.float64)
    for i in range(wanted):
        first, last = i * length // wanted, -(-(i + 1) * length // wanted)
        matrix[i, first:last] = 1 / (last - first)
    return matrix.to(device, dtype)
