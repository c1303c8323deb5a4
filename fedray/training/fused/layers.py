"""Layers whose parameters differ from client to client, where torch.func.vmap's own way is slow or not deterministic.

Inside `with AsProducts():` torch's functions are replaced when they are called. So this works for networks of the
user's own, too.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


class AsTorchDoes(TorchFunctionMode):
    """Everything as vmap does it, but for adaptive pooling. vmap makes convolutions into one with a group a client."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = self.replace.get(func)
        made = replaced(*args, **(kwargs or {})) if replaced else None
        return func(*args, **(kwargs or {})) if made is None else made

    @property
    def replace(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        return {F.adaptive_avg_pool2d: average_pool}


class AsProducts(AsTorchDoes):
    """Convolutions as one batched product of the windows that the kernel sees [A, N, K] and the kernels [A, K, out].

    Every GPU computes such products well, for any number of clients and channels.
    """

    @property
    def replace(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        return {**super().replace, F.conv2d: convolve}


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


def convolve(
    input: torch.Tensor,  # noqa: A002  its name in torch
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """F.conv2d as a product; None where torch is to compute it."""
    if groups != 1 or isinstance(padding, str) or input.dim() != 4:
        return None
    kind = input.device.type
    if torch.is_autocast_enabled(kind):
        half = torch.get_autocast_dtype(kind)
        input, weight, bias = input.to(half), weight.to(half), None if bias is None else bias.to(half)  # noqa: A001
    output = Product.apply(input, weight, pair(stride), pair(padding), pair(dilation))
    return output if bias is None else output + bias[:, None, None]


def pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    values = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return values[0], values[1]


class Product(torch.autograd.Function):
    """A convolution that becomes `Windows` of many clients under vmap."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair) -> torch.Tensor:
        return F.conv2d(x, weight, None, stride, padding, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair
    ) -> tuple[torch.Tensor, int]:
        x = x.expand(info.batch_size, *x.shape) if dims[0] is None else x.movedim(dims[0], 0)
        if dims[1] is None:  # frozen: the same for all clients
            whole = F.conv2d(x.flatten(0, 1), weight, None, stride, padding, dilation)
            return whole.unflatten(0, x.shape[:2]), 0
        return Windows.apply(x, weight.movedim(dims[1], 0), stride, padding, dilation), 0


class Windows(torch.autograd.Function):
    """The convolutions of inputs [A, B, c, h, w] with the clients' kernels [A, o, c, i, j]: [A, B, o, h', w'].

    Channels are innermost in memory. Windows take i * j times the memory of the input, so they are made again for the
    gradient.
    """

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair) -> torch.Tensor:
        windows, size = windows_of(x, weight, stride, padding, dilation)
        out = torch.bmm(windows, weight.permute(0, 3, 4, 2, 1).flatten(1, 3))
        return out.view(*x.shape[:2], *size, -1).permute(0, 1, 4, 2, 3)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.how = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0].permute(0, 1, 3, 4, 2).flatten(1, 3)  # [A, N, o]
        of_x = of_weight = None
        if ctx.needs_input_grad[1]:
            windows, _ = windows_of(x, weight, *ctx.how)
            by_place = torch.bmm(windows.transpose(1, 2), slope)
            of_weight = by_place.unflatten(1, (*weight.shape[3:], -1)).permute(0, 4, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            windows = torch.bmm(slope, weight.permute(0, 1, 3, 4, 2).flatten(2))
            of_x = put_back(windows, slopes[0].shape[3:], x, weight, *ctx.how)
        return of_x, of_weight, None, None, None


def windows_of(
    x: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[torch.Tensor, Pair]:
    """The windows [A, B * h' * w', i * j * c] of x [A, B, c, h, w] that the kernel sees, and their places (h', w')."""
    padded = F.pad(x.permute(0, 1, 3, 4, 2), (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
    kernel = tuple(weight.shape[3:])
    rows, columns = (
        (there - d * (k - 1) - 1) // s + 1
        for there, k, s, d in zip(padded.shape[2:4], kernel, stride, dilation, strict=True)
    )
    a, b, h, w, c = padded.stride()
    views = padded.as_strided(
        (*x.shape[:2], rows, columns, *kernel, x.shape[2]),
        (a, b, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c),
    )
    return views.reshape(len(x), -1, kernel[0] * kernel[1] * x.shape[2]), (rows, columns)


def put_back(
    windows: torch.Tensor,
    size: torch.Size,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> torch.Tensor:
    """The sum of windows at the places where each was seen, shaped like x. `windows_of` gives their layout."""
    count, batch, channels, height, width = x.shape
    windows = windows.view(count, batch, *size, *weight.shape[3:], channels)
    total = windows.new_zeros(count, batch, height + 2 * padding[0], width + 2 * padding[1], channels)
    for i in range(weight.shape[3]):
        for j in range(weight.shape[4]):
            top, left = i * dilation[0], j * dilation[1]
            total[
                :,
                :,
                top : top + (size[0] - 1) * stride[0] + 1 : stride[0],
                left : left + (size[1] - 1) * stride[1] + 1 : stride[1],
            ] += windows[:, :, :, :, i, j]
    inner = total[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return inner.permute(0, 1, 4, 2, 3)
