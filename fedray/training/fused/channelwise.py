"""Layers of many clients that treat every channel alike, or every group of a client's channels, on a GPU.

vmap's own rules for them copy the images to [A * B, channels, h, w]. These leave them where they are (layout.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from fedray.training.fused.layers import average_pool
from fedray.training.fused.layout import CONTIGUOUS, arrange, grouped, new

Order = torch.memory_format


class Channelwise(torch.autograd.Function):
    """A function of images [N, channels, h, w] that treats every channel alike."""

    @staticmethod
    def forward(x: torch.Tensor, order: Order, call: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return call(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: torch.Tensor, order: Order, call: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        x = x.movedim(dims[0], 1)
        with torch.autocast(x.device.type, enabled=False):
            return call(arrange(x, order)).unflatten(1, x.shape[1:3]), 1


def max_pool(order: Order, input: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor | None:  # noqa: A002
    """F.max_pool2d; None where torch is to compute it."""
    if input.dim() != 4 or settings.pop("return_indices", False) or len(args) > 5:
        return None
    return Channelwise.apply(input, order, lambda x: F.max_pool2d(x, *args, **settings))


def avg_pool(order: Order, input: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor | None:  # noqa: A002
    """F.avg_pool2d; None where torch is to compute it."""
    if input.dim() != 4:
        return None
    return Channelwise.apply(input, order, lambda x: F.avg_pool2d(x, *args, **settings))


def adaptive_avg_pool(order: Order, input: torch.Tensor, output_size: Any) -> torch.Tensor:  # noqa: A002
    """F.adaptive_avg_pool2d: plain pooling where the size of the output divides that of the input."""
    window = window_of(input, output_size)
    if not window:
        return average_pool(input, output_size)
    return Channelwise.apply(input, order, partial(F.avg_pool2d, kernel_size=window))


def adaptive_max_pool(
    order: Order,
    input: torch.Tensor,  # noqa: A002
    output_size: Any,
    return_indices: bool = False,
) -> torch.Tensor | None:
    """F.adaptive_max_pool2d where the size of the output divides that of the input, otherwise None."""
    window = window_of(input, output_size)
    if not window or return_indices:
        return None
    return Channelwise.apply(input, order, partial(F.max_pool2d, kernel_size=window))


def window_of(x: torch.Tensor, output_size: Any) -> tuple[int, int] | None:
    """The window of plain pooling that is adaptive pooling to this size; None where there is none."""
    sizes = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    wanted = [size or there for there, size in zip(x.shape[-2:], sizes, strict=True)]
    if x.dim() != 4 or any(there % size for there, size in zip(x.shape[-2:], wanted, strict=True)):
        return None
    rows, columns = (there // size for there, size in zip(x.shape[-2:], wanted, strict=True))
    return rows, columns


def rectify(order: Order, input: torch.Tensor) -> torch.Tensor | None:  # noqa: A002
    """ReLU of images; None where torch is to compute it."""
    return RectifiedOfEach.apply(input, order) if input.dim() == 4 else None


class RectifiedOfEach(torch.autograd.Function):
    """A client's ReLU, which vmap makes into that of many."""

    @staticmethod
    def forward(x: torch.Tensor, order: Order) -> torch.Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, dims: Any, x: torch.Tensor, order: Order) -> tuple[torch.Tensor, int]:
        x = x.movedim(dims[0], 1)
        return Rectified.apply(x, order).unflatten(1, x.shape[1:3]), 1


class Rectified(torch.autograd.Function):
    """ReLU of [B, A, channels, h, w], as [B, A * channels, h, w].

    The output is in the network's memory format, the gradient in the input's.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: Order) -> torch.Tensor:
        out = torch.clamp_min(x, 0, out=new(x, x.shape, order)).flatten(1, 2)
        ctx.save_for_backward(out)
        ctx.shape, ctx.strides = x.shape, x.stride()
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        (out,) = ctx.saved_tensors
        slope = torch.empty_strided(ctx.shape, ctx.strides, dtype=out.dtype, device=out.device)
        given, kept = (each.unflatten(1, ctx.shape[1:3]) for each in (slopes[0], out))
        torch.ops.aten.threshold_backward.grad_input(given, kept, 0, grad_input=slope)
        return slope, None


def normalise_groups(
    precision: str,
    input: torch.Tensor,  # noqa: A002
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor | None:
    """F.group_norm of images; None where torch is to compute it."""
    if input.dim() != 4 or (weight is None) != (bias is None):
        return None
    dtype = torch.float32 if precision == "bfloat16" else input.dtype  # as autocast
    return NormalisedOfEach.apply(input, weight, bias, num_groups, eps, dtype)


class NormalisedOfEach(torch.autograd.Function):
    """A client's GroupNorm, which vmap makes into that of many."""

    @staticmethod
    def forward(x: torch.Tensor, weight: Any, bias: Any, groups: int, eps: float, dtype: torch.dtype) -> torch.Tensor:
        return F.group_norm(x.to(dtype), groups, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: torch.Tensor, weight: Any, bias: Any, groups: int, eps: float, dtype: torch.dtype
    ) -> tuple[torch.Tensor, int]:
        x = x.movedim(dims[0], 1)
        weight, bias = (
            each if each is None else each.expand(x.shape[1], -1) if dim is None else each.movedim(dim, 0)
            for each, dim in zip((weight, bias), dims[1:3], strict=True)
        )
        with torch.autocast(x.device.type, enabled=False):
            return Normalised.apply(x, weight, bias, groups, eps, dtype).unflatten(1, x.shape[1:3]), 1


class Normalised(torch.autograd.Function):
    """GroupNorm of [B, A, channels, h, w], with weights and biases [A, channels], as [B, A * channels, h, w].

    torch's own kernels for GPUs compute in the contiguous memory format alone. The output and the gradient stay in it,
    for the next layer to write what it makes of them elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Any, bias: Any, groups: int, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        batch, clients, channels, *size = x.shape
        images = grouped(x, CONTIGUOUS, dtype)
        scale, shift = (None if each is None else each.reshape(-1) for each in (weight, bias))
        ctx.sizes = batch, clients * channels, size[0] * size[1], clients * groups
        out, mean, rstd = torch.ops.aten.native_group_norm(images, scale, shift, *ctx.sizes, eps)
        ctx.save_for_backward(images, mean, rstd, scale)
        ctx.channels, ctx.dtype = (clients, channels), x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, mean, rstd, scale = ctx.saved_tensors
        slope = grouped(slopes[0].unflatten(1, ctx.channels), CONTIGUOUS, images.dtype)
        of_x, *others = torch.ops.aten.native_group_norm_backward(
            slope, images, mean, rstd, scale, *ctx.sizes, list(ctx.needs_input_grad[:3])
        )
        of_weight, of_bias = (None if each is None else each.unflatten(0, ctx.channels) for each in others)
        if ctx.needs_input_grad[0]:
            of_x = of_x.unflatten(1, ctx.channels).to(ctx.dtype)
        return of_x, of_weight, of_bias, None, None, None


def join(order: Order, tensors: Any, dim: int = 0, **out: Any) -> torch.Tensor | None:
    """torch.cat of images' channels; None where torch is to compute it."""
    if out or dim not in (1, -3) or any(each.dim() != 4 for each in tensors):
        return None
    return Joined.apply(order, *tensors)


class Joined(torch.autograd.Function):
    """The channels of images one after another."""

    @staticmethod
    def forward(order: Order, *images: torch.Tensor) -> torch.Tensor:
        return torch.cat(images, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, dims: Any, order: Order, *images: torch.Tensor) -> tuple[torch.Tensor, int]:
        aligned = [
            x.unsqueeze(1).expand(-1, info.batch_size, -1, -1, -1) if dim is None else x.movedim(dim, 1)
            for x, dim in zip(images, dims[1:], strict=True)
        ]
        if order == CONTIGUOUS:
            return torch.cat(aligned, 2), 1
        return torch.cat([x.permute(0, 3, 4, 1, 2) for x in aligned], 4).permute(0, 3, 4, 1, 2), 1


def linear(
    precision: str,
    input: torch.Tensor,  # noqa: A002
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """F.linear of a batch; None where torch is to compute it."""
    if input.dim() != 2:
        return None
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.promote_types(input.dtype, weight.dtype)
    return LinearOfEach.apply(input, weight, bias, dtype)


class LinearOfEach(torch.autograd.Function):
    """A client's linear layer, which vmap makes into that of many."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: Any, dtype: torch.dtype) -> torch.Tensor:
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, dtype: torch.dtype
    ) -> tuple[torch.Tensor, int]:
        x = x.expand(info.batch_size, *x.shape) if dims[0] is None else x.movedim(dims[0], 0)
        with torch.autocast(x.device.type, enabled=False):
            if bias is not None:
                bias = bias.expand(len(x), -1) if dims[2] is None else bias.movedim(dims[2], 0)
            if dims[1] is None:  # frozen: the same for all clients
                made = F.linear(x.to(dtype), weight.to(dtype))
                return made if bias is None else made + bias[:, None].to(dtype), 0
            return Linear.apply(x, weight.movedim(dims[1], 0), bias, dtype), 0


class Linear(torch.autograd.Function):
    """Rows [A, B, d] with weights [A, o, d] and biases [A, o]: [A, B, o]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, dtype: torch.dtype) -> torch.Tensor:
        rows, matrices = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(rows, matrices)
        ctx.dtype = x.dtype
        if bias is None:
            return torch.bmm(rows, matrices.transpose(1, 2))
        return torch.baddbmm(bias[:, None].to(dtype), rows, matrices.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (rows, matrices), slope = ctx.saved_tensors, slopes[0]
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.bmm(slope, matrices, out=torch.empty_like(rows)).to(ctx.dtype)  # as the rows lie in memory
        if ctx.needs_input_grad[1]:
            of_weight = torch.bmm(slope.transpose(1, 2), rows)
        if ctx.needs_input_grad[2]:
            of_bias = slope.sum(1)
        return of_x, of_weight, of_bias, None
