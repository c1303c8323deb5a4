"""The memory of many clients' images between layers: [B, A * channels, h, w], in one memory format.

The channels of A clients lie side by side, as the groups of a grouped convolution do. A layer gets and gives views
[B, A, channels, h, w] of that memory, so that no layer copies what the one before it wrote.
"""

from collections.abc import Sequence
from typing import Any

import torch

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


def new(
    like: torch.Tensor, shape: Sequence[int], order: torch.memory_format, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Memory for images [B, A, channels, h, w] of this memory format, not yet written."""
    batch, clients, channels, *size = shape
    made = torch.empty(
        (batch, clients * channels, *size), dtype=dtype or like.dtype, device=like.device, memory_format=order
    )
    return made.unflatten(1, (clients, channels))


def is_grouped(x: torch.Tensor, order: torch.memory_format) -> bool:
    """Whether images [B, A, channels, h, w] are [B, A * channels, h, w] in this memory format."""
    side_by_side = 1 in x.shape[1:3] or x.stride(1) == x.shape[2] * x.stride(2)
    return side_by_side and x.flatten(1, 2).is_contiguous(memory_format=order)


def grouped(x: torch.Tensor, order: torch.memory_format, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Images [B, A, channels, h, w] as [B, A * channels, h, w] of this memory format: a view where they are that."""
    fits = x.dtype == (dtype or x.dtype) and is_grouped(x, order)
    return (x if fits else new(x, x.shape, order, dtype).copy_(x)).flatten(1, 2)


def arrange(x: torch.Tensor, order: torch.memory_format) -> torch.Tensor:
    """`grouped` images, differentiable."""
    return x.flatten(1, 2) if is_grouped(x, order) else Arranged.apply(x, order)


class Arranged(torch.autograd.Function):
    """A copy of images in the memory of `grouped`. The gradient stays as it lies."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: torch.memory_format) -> torch.Tensor:
        ctx.channels = x.shape[1:3]
        return grouped(x, order)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return slopes[0].unflatten(1, ctx.channels), None
