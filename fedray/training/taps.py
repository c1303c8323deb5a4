"""Kernels without the places that see nothing but padding.

A 3 x 3 kernel with padding 1 sees of an image of one pixel its middle alone. cuDNN computes with all nine places, each
way, and takes many times as long as the product that is left. A network for large images meets that with small ones.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


@cache
def seen(side: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    """The first place of a kernel, in one direction, that sees a pixel, and the one after the last; all where the
    others could not be left out by less padding on both sides."""
    outputs = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    places = [i for i in range(kernel) if any(0 <= o * stride + i * dilation - padding < side for o in range(outputs))]
    if not places:
        return 0, kernel
    first, last = places[0], places[-1] + 1
    left = padding - first * dilation
    same = left >= 0 and (side + 2 * left - dilation * (last - first - 1) - 1) // stride + 1 == outputs
    return (first, last) if same else (0, kernel)


def trimmed(x: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair) -> tuple[Any, Pair]:
    """The kernels [..., i, j] without such places, for images [..., h, w], and the padding that then is needed."""
    at = [seen(*each) for each in zip(x.shape[-2:], weight.shape[-2:], stride, padding, dilation, strict=True)]
    (top, bottom), (left, right) = at
    if (bottom - top, right - left) == tuple(weight.shape[-2:]):
        return weight, padding
    rows, columns = (p - first * d for p, (first, _), d in zip(padding, at, dilation, strict=True))
    return weight[..., top:bottom, left:right], (rows, columns)


def pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    values = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return values[0], values[1]


class Trimmed(TorchFunctionMode):
    """F.conv2d with trimmed kernels for the length of a `with`. What is left of one pixel is a product."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.conv2d:
            return func(*args, **(kwargs or {}))
        return convolve(*args, **(kwargs or {}))


def convolve(
    input: torch.Tensor,  # noqa: A002  its name in torch
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """F.conv2d, as above."""
    if groups != 1 or isinstance(padding, str) or input.dim() != 4:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    kernel, around = trimmed(input, weight, pair(stride), pair(padding), pair(dilation))
    if kernel is weight:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if input.shape[2:] == kernel.shape[2:] == (1, 1) and around == (0, 0):
        return F.linear(input.flatten(1), kernel.flatten(1), bias)[:, :, None, None]
    return F.conv2d(input, kernel, bias, stride, around, dilation, groups)
