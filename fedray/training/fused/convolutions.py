"""Convolutions of many clients, each with a kernel of its own, on a GPU: the forms, and the table that chooses one.

A form is chosen by the precision, the channels that a convolution reads and its stride, and by nothing else: not by
the number of clients or images, nor by what is installed. Results depend on it. Only where a kernel sees one pixel and
padding around it (taps.py) it is a product in any case.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from fedray.training.fused.layout import CHANNELS_LAST, CONTIGUOUS, grouped, is_grouped, new
from fedray.training.taps import Pair, pair, trimmed

Form = Literal["products", "contiguous", "grouped", "split"]
"""products: one batched product of the windows that the kernels see. The others are one convolution with a group for
each client: in the contiguous memory format, in the network's, or in that and as three TF32 products."""

Forms = tuple[Form, Form, Form]
"""Those of the output, and of the gradients of the images and of the kernels."""
EVERY = float("inf")

TABLE: dict[str, tuple[tuple[float, Forms, Forms], ...]] = {
    "float32": (
        (16, ("contiguous", "contiguous", "contiguous"), ("contiguous", "contiguous", "contiguous")),
        (64, ("grouped", "grouped", "contiguous"), ("products", "products", "products")),
        (256, ("grouped", "grouped", "contiguous"), ("products", "products", "products")),
        (EVERY, ("products", "products", "products"), ("products", "products", "products")),
    ),
    "tf32": (
        (16, ("products", "products", "products"), ("contiguous", "contiguous", "contiguous")),
        (256, ("grouped", "grouped", "grouped"), ("grouped", "products", "products")),
        (512, ("grouped", "products", "grouped"), ("grouped", "grouped", "products")),
        (EVERY, ("grouped", "grouped", "products"), ("grouped", "grouped", "products")),
    ),
    "bfloat16": (
        (16, ("contiguous", "contiguous", "contiguous"), ("contiguous", "contiguous", "contiguous")),
        (512, ("grouped", "grouped", "grouped"), ("grouped", "grouped", "grouped")),
        (EVERY, ("grouped", "grouped", "products"), ("grouped", "grouped", "products")),
    ),
    "float32_3xtf32": (
        (16, ("contiguous", "contiguous", "contiguous"), ("contiguous", "contiguous", "contiguous")),
        (32, ("grouped", "grouped", "contiguous"), ("products", "products", "products")),
        (EVERY, ("split", "split", "split"), ("products", "products", "products")),
    ),
}
"""For each precision, the forms of convolutions that read fewer channels than the number beside them, in order: first
of stride 1, then of longer ones.

They are those that were fastest on an H200 on 2026-11-27, each direction by itself in a CUDA graph, of 3 x 3 kernels
that read 3, 32, 64, 128, 256 and 512 channels, 7 x 7 ones that read 3, and 3 x 3 and 1 x 1 ones of stride 2, for 5, 10
or 50 clients (torch 2.11, CUDA 13.0). The part `conv` of `make bench-gpu` times the same and has not itself run since.
Other numbers of channels have the forms of the nearest, not measured. So has all of float32_3xtf32, whose products are
those of tf32."""


def forms_of(precision: str, channels: int, stride: Pair = (1, 1)) -> Forms:
    """The forms of a convolution that reads so many channels."""
    plain, strided = next((one, other) for bound, one, other in TABLE[precision] if channels < bound)
    return plain if stride == (1, 1) else strided


def memory_format(precision: str, module: nn.Module) -> torch.memory_format:
    """The memory format of images between all layers of a network.

    It is channels_last for grouped convolutions. In bfloat16 the contiguous one is faster if none reads 64 channels.
    """
    read = [layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1]
    fits = any(forms_of(precision, channels)[0] in ("grouped", "split") for channels in read)
    return CHANNELS_LAST if fits and (precision != "bfloat16" or max(read) >= 64) else CONTIGUOUS


@dataclass(frozen=True)
class Convolution:
    """How a convolution is computed."""

    forms: Forms
    order: torch.memory_format
    """The memory format of the output."""
    dtype: torch.dtype
    stride: Pair
    padding: Pair
    dilation: Pair

    def inner(self, form: Form) -> torch.memory_format:
        """The memory format that a grouped convolution computes in."""
        return CONTIGUOUS if form == "contiguous" else self.order

    def padding_of_slope(self, kernel: Sequence[int]) -> Pair | None:
        """The padding with which the gradient of x is a convolution of the slope of stride 1; None if there is none."""
        rows, columns = (d * (k - 1) - p for d, k, p in zip(self.dilation, kernel, self.padding, strict=True))
        return (rows, columns) if min(rows, columns) >= 0 else None

    def of(self, x: torch.Tensor, weight: torch.Tensor, clients: int) -> torch.Tensor:
        """The convolution of x [B, A * c, h, w] with [A * o, c, i, j]."""
        return torch.convolution(x, weight, None, self.stride, self.padding, self.dilation, False, (0, 0), clients)

    def slopes(
        self, slope: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, clients: int, wanted: list[bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of x and weight, those that are wanted."""
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            slope, x, weight, None, self.stride, self.padding, self.dilation, False, (0, 0), clients, [*wanted, False]
        )
        return of_x, of_weight


def convolve(
    precision: str,
    order: torch.memory_format,
    input: torch.Tensor,  # noqa: A002  its name in torch
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """F.conv2d by the table; None where torch is to compute it."""
    if groups != 1 or isinstance(padding, str) or input.dim() != 4:
        return None
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.promote_types(input.dtype, weight.dtype)
    far, apart = pair(stride), pair(dilation)
    kernel, around = trimmed(input, weight, far, pair(padding), apart)
    forms: Forms = ("products",) * 3
    if kernel is weight or kernel.shape[2:] != (1, 1):
        forms = forms_of(precision, weight.shape[1], far)
    return OfEach.apply(input, kernel, bias, Convolution(forms, order, dtype, far, around, apart))


class OfEach(torch.autograd.Function):
    """A client's convolution, which vmap makes into that of many."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Convolution) -> torch.Tensor:
        return F.conv2d(x, weight, bias, how.stride, how.padding, how.dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Convolution
    ) -> tuple[torch.Tensor, int]:
        x = x.expand(info.batch_size, *x.shape).transpose(0, 1) if dims[0] is None else x.movedim(dims[0], 1)
        if bias is not None:
            bias = bias[None] if dims[2] is None else bias.movedim(dims[2], 0)
        with torch.autocast(x.device.type, enabled=False):
            if dims[1] is None:  # frozen: the same for all clients
                flat, kernel = x.flatten(0, 1).to(how.dtype), weight.to(how.dtype)
                whole = F.conv2d(flat, kernel, None, how.stride, how.padding, how.dilation)
                whole = whole.unflatten(0, x.shape[:2])
                return whole if bias is None else whole + bias[..., None, None].to(how.dtype), 1
            weight = weight.movedim(dims[1], 0)
            if bias is not None:
                bias = bias.expand(len(weight), -1)
            form = Split if "split" in how.forms else Many
            # Outside of the function, since a view that is made inside cannot be changed in place.
            return form.apply(x, weight, bias, how).unflatten(1, weight.shape[:2]), 1


class Many(torch.autograd.Function):
    """Images [B, A, c, h, w] with kernels [A, o, c, i, j] and biases [A, o]: [B, A * o, h', w']."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Convolution
    ) -> torch.Tensor:
        form, kernels = how.forms[0], None
        ctx.how, ctx.dtype, weight = how, x.dtype, weight.to(how.dtype)
        if form == "products":
            images = x.to(how.dtype)
            made = product(images, weight, how)
        else:
            together, kernels = grouped(x, how.inner(form), how.dtype), kernels_of(weight, how.inner(form))
            images = together.unflatten(1, (len(weight), weight.shape[2]))
            made = how.of(together, kernels, len(weight)).unflatten(1, weight.shape[:2])
        ctx.save_for_backward(images, weight, kernels)
        return finish(made, bias, how)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (images, weight, kernels), how = ctx.saved_tensors, ctx.how
        slope = slopes[0].unflatten(1, weight.shape[:2])
        of_x = of_weight = None
        forward, for_images, for_weight = how.forms
        if ctx.needs_input_grad[0]:
            if for_images == "products":
                of_x = product_for_images(slope, images, weight, how)
            else:
                order = how.inner(for_images)
                if kernels is None or order != how.inner(forward):
                    kernels = kernels_of(weight, order)
                like = images if is_grouped(images, order) else new(images, images.shape, order)  # for its shape alone
                of_x, _ = how.slopes(grouped(slope, order), like.flatten(1, 2), kernels, len(weight), [True, False])
                of_x = of_x.unflatten(1, (len(weight), weight.shape[2]))
            of_x = of_x.to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            if for_weight == "products":
                of_weight = product_for_weight(slope, images, weight, how)
            else:
                order = how.inner(for_weight)
                if kernels is None or order != how.inner(forward):  # for its shape alone
                    kernels = kernel_memory(weight, (weight.shape[0] * weight.shape[1], *weight.shape[2:]), order)
                _, of_weight = how.slopes(
                    grouped(slope, order), grouped(images, order), kernels, len(weight), [False, True]
                )
                of_weight = of_weight.unflatten(0, weight.shape[:2])
        return of_x, of_weight, slope_of_bias(ctx, slopes[0], weight.shape), None


class Split(torch.autograd.Function):
    """As Grouped, in float32 of three TF32 products: x = high + low, where high has the mantissa of TF32.

    x * y is high * high + low * high + high * low, to within 2**-22 of float32's own rounding. The three lie along the
    dimension that a convolution sums over, so that each is one convolution: channels for the output, output channels
    for the gradient of x, and images for that of the weight (Ootomo, Yokota 2022, arXiv 2203.03341, on the error).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Convolution
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        count, out, channels, *kernel = weight.shape
        images = triple(x, 2, 2, how.order)
        kernels = kernel_memory(weight, (count * out, 3 * channels, *kernel), how.order)
        split(weight, kernels.unflatten(1, (3, channels)).unflatten(0, (count, out)).movedim(2, 0), low=1)
        with tf32():
            made = how.of(images, kernels, count)
        return finish(made.unflatten(1, (count, out)), bias, how)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, weight), how = ctx.saved_tensors, ctx.how
        count, out, channels, *kernel = weight.shape
        slope = slopes[0].unflatten(1, (count, out))
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            kernels = kernel_memory(weight, (count * 3 * out, channels, *kernel), how.order)
            split(weight, kernels.unflatten(0, (count, 3, out)).movedim(1, 0), low=1)
            images = new(x, x.shape, how.order).flatten(1, 2)  # for its shape alone
            with tf32():
                of_x, _ = how.slopes(triple(slope, 2, 2, how.order), images, kernels, count, [True, False])
        if ctx.needs_input_grad[1]:
            kernels = kernel_memory(weight, (count * out, channels, *kernel), how.order)  # for its shape alone
            images = triple(x, 0, 1, how.order)
            with tf32():
                _, of_weight = how.slopes(triple(slope, 0, 2, how.order), images, kernels, count, [False, True])
        return (
            None if of_x is None else of_x.unflatten(1, (count, channels)),
            None if of_weight is None else of_weight.unflatten(0, (count, out)),
            slope_of_bias(ctx, slopes[0], weight.shape),
            None,
        )


def triple(x: torch.Tensor, dim: int, low: int, order: torch.memory_format) -> torch.Tensor:
    """Images [B, A, c, h, w] split in three along `dim`, 0 or 2: [3 * B, A * c, h, w] or [B, A * 3 * c, h, w]."""
    batch, clients, channels, *size = x.shape
    if dim == 0:
        made = new(x, (3 * batch, clients, channels, *size), order)
        split(x, made.unflatten(0, (3, batch)), low)
    else:
        made = new(x, (batch, clients, 3 * channels, *size), order)
        split(x, made.unflatten(2, (3, channels)).movedim(2, 0), low)
    return made.flatten(1, 2)


def split(x: torch.Tensor, into: torch.Tensor, low: int) -> None:
    """Write x, its part in TF32 twice and the rest as number `low` (1 or 2), into memory [3, ...]."""
    high = into[:2] if low == 2 else into[::2]
    words = high.view(torch.int32)
    torch.add(x.view(torch.int32).expand(high.shape), 0x1000, out=words)  # half of the last place that is kept
    words.bitwise_and_(-0x2000)
    torch.sub(x, high[0], out=into[low])


@contextmanager
def tf32() -> Iterator[None]:
    """TensorFloat-32 for the convolutions of a `with`, on a GPU."""
    cudnn: Any = torch.backends.cudnn
    conv = cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "tf32"
    try:
        yield
    finally:
        conv.fp32_precision = before


def kernel_memory(like: torch.Tensor, shape: tuple[int, ...], order: torch.memory_format) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def kernels_of(weight: torch.Tensor, order: torch.memory_format) -> torch.Tensor:
    """Kernels [A, o, c, i, j] as one tensor [A * o, c, i, j] of this memory format."""
    made = kernel_memory(weight, (weight.shape[0] * weight.shape[1], *weight.shape[2:]), order)
    made.unflatten(0, weight.shape[:2]).copy_(weight)
    return made


def finish(made: torch.Tensor, bias: torch.Tensor | None, how: Convolution) -> torch.Tensor:
    """The output [B, A, o, h, w] with its biases [A, o], as [B, A * o, h, w] in the network's memory format."""
    if bias is None:
        return grouped(made, how.order)
    biases = bias[:, :, None, None]
    made = (
        made.add_(biases)
        if is_grouped(made, how.order)
        else torch.add(made, biases, out=new(made, made.shape, how.order))
    )
    return made.flatten(1, 2)


def slope_of_bias(ctx: Any, slope: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """The gradient of the biases [A, o] from that of the output [B, A * o, h, w]."""
    return slope.sum((0, 2, 3)).view(shape[:2]) if ctx.needs_input_grad[2] else None


def product(x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """The output [B, A, o, h', w'] as products of the windows that the kernels see [A, N, K] and the kernels [A, K, o].

    Windows take i * j times the memory of the input, so they are made again for the gradient.
    """
    windows, size = windows_of(x.transpose(0, 1), weight, how.stride, how.padding, how.dilation)
    out = torch.bmm(windows, weight.permute(0, 3, 4, 2, 1).flatten(1, 3))
    return out.view(len(weight), len(x), *size, -1).permute(1, 0, 4, 2, 3)


def product_for_weight(slope: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """The gradient of the kernels [A, o, c, i, j], from that of the output [B, A, o, h', w']."""
    windows, _ = windows_of(x.transpose(0, 1), weight, how.stride, how.padding, how.dilation)
    by_place = torch.bmm(windows.transpose(1, 2), slope.permute(1, 0, 3, 4, 2).flatten(1, 3))
    return by_place.unflatten(1, (*weight.shape[3:], -1)).permute(0, 4, 3, 1, 2)


def product_for_images(slope: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """The gradient of the images [B, A, c, h, w]."""
    if how.stride == (1, 1) and (padding := how.padding_of_slope(weight.shape[3:])):
        # The convolution of the slope with the mirrored kernels: fewer passes than adding windows up.
        windows, size = windows_of(slope.transpose(0, 1), weight, (1, 1), padding, how.dilation)
        mirrored = weight.flatten(3).permute(0, 3, 1, 2).index_select(1, backwards(weight[0, 0, 0].numel(), x.device))
        found = torch.bmm(windows, mirrored.flatten(1, 2)).view(len(weight), len(x), *size, -1)
        return found.permute(1, 0, 4, 2, 3)
    by_place = torch.bmm(slope.permute(1, 0, 3, 4, 2).flatten(1, 3), weight.permute(0, 1, 3, 4, 2).flatten(2))
    return put_back(
        by_place, slope.shape[3:], x.transpose(0, 1), weight, how.stride, how.padding, how.dilation
    ).transpose(0, 1)


@cache  # for good, since a CUDA graph may read it
def backwards(length: int, device: torch.device) -> torch.Tensor:
    """The numbers below `length`, the last one first."""
    return torch.arange(length - 1, -1, -1, device=device)


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
