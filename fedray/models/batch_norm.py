"""BatchNorm of many clients at once under torch.func.vmap, each with the statistics of its own batch.

Inside `with ManyNorms(layers, rows):` F.batch_norm in training mode is one call for all clients, whose channels lie
side by side: [B, A * C, ...]. Where batches are padded, the statistics are those of the real rows. A padding row adds
nothing to them, and its gradient is 0.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from fedray.models.flat import FlatModel, Tensors

BatchNorm = nn.modules.batchnorm._BatchNorm
Layers = Mapping[str, BatchNorm]
Maybe = torch.Tensor | None
EVERY = "it gives a BatchNorm the same input for all clients"
FOREIGN = "it gives F.batch_norm running statistics that are not those of a BatchNorm layer"


class Rows(NamedTuple):
    """The real rows in the padded batches of A clients."""

    real: torch.Tensor
    """bool [A, B]."""
    least: int
    """The fewest rows of any batch that is not empty."""


class Counted(NamedTuple):
    """The momentum of a layer that has None: its running statistics are averages over all batches so far."""

    layer: BatchNorm

    def __call__(self) -> torch.Tensor:
        """The last batch's share in the average."""
        counter: Any = self.layer.num_batches_tracked
        return counter.double().reciprocal()


class ManyNorms(TorchFunctionMode):
    """BatchNorm of many clients, as above."""

    def __init__(self, layers: Layers, rows: Rows | None):
        """`layers` are those with running statistics. `rows` is None where no row is padding."""
        super().__init__()
        self.rows = rows
        self.counting: list[Any] = [layer for layer in layers.values() if layer.momentum is None]

    def __enter__(self) -> "ManyNorms":
        for layer in self.counting:
            layer.momentum = Counted(layer)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for layer in self.counting:
            layer.momentum = None

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm and kwargs["training"]:
            x, *running = args  # as F.batch_norm passes them on
            momentum = kwargs["momentum"]
            share = momentum() if isinstance(momentum, Counted) else momentum
            return OneOfMany.apply(x, *running, kwargs["weight"], kwargs["bias"], share, kwargs["eps"], self.rows)
        return func(*args, **(kwargs or {}))


class OneOfMany(torch.autograd.Function):
    """A client's BatchNorm in training mode, which vmap makes into one of all clients. Running statistics move."""

    @staticmethod
    def forward(x: torch.Tensor, *others: Any) -> torch.Tensor:
        raise ValueError(EVERY)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        dims: Any,
        x: torch.Tensor,
        running_mean: Maybe,
        running_var: Maybe,
        weight: Maybe,
        bias: Maybe,
        share: torch.Tensor | float,
        eps: float,
        rows: Rows | None,
    ) -> tuple[torch.Tensor, int]:
        if dims[0] is None:
            raise ValueError(EVERY)
        if any(tensor is not None and dim is None for tensor, dim in ((running_mean, dims[1]), (running_var, dims[2]))):
            raise ValueError(FOREIGN)
        weight, bias = (
            None if tensor is None else tensor.expand(info.batch_size, -1) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in ((weight, dims[3]), (bias, dims[4]))
        )
        x = x.movedim(dims[0], 1)
        if rows:
            return normalise_real(x, running_mean, running_var, weight, bias, share, eps, rows), 1
        return normalise(x, running_mean, running_var, weight, bias, share, eps), 1


def normalise(
    x: torch.Tensor,
    running_mean: Maybe,
    running_var: Maybe,
    weight: Maybe,
    bias: Maybe,
    share: torch.Tensor | float,
    eps: float,
) -> torch.Tensor:
    """x [B, A, C, ...] by torch's BatchNorm of A * C channels. All other tensors are [A, C]. The running ones move."""
    running: list[Any] = [running_mean, running_var]
    averages = isinstance(share, torch.Tensor)
    found = [torch.zeros_like(tensor) for tensor in running] if averages else running
    mean, variance = (None if tensor is None else tensor.view(-1) for tensor in found)
    weight, bias = (None if tensor is None else tensor.flatten() for tensor in (weight, bias))
    momentum: Any = 1.0 if averages else share
    output = F.batch_norm(x.flatten(1, 2), mean, variance, weight, bias, True, momentum, eps)
    if averages:
        for tensor, target in zip(running, found, strict=True):
            move(tensor, target, share)
    return output.unflatten(1, x.shape[1:3])


def normalise_real(
    x: torch.Tensor,
    running_mean: Maybe,
    running_var: Maybe,
    weight: Maybe,
    bias: Maybe,
    share: torch.Tensor | float,
    eps: float,
    rows: Rows,
) -> torch.Tensor:
    """As `normalise`, from the real rows alone. Padding becomes the bias."""
    images, area = rows.real.shape[1], x.shape[3:].numel()
    if len(x) != images:
        raise ValueError(f"it gives a BatchNorm {len(x)} rows for {images} images, so that padding cannot be told")
    if rows.least * area == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {(1, *x.shape[2:])}")
    real = rows.real.T[(..., *[None] * (x.dim() - 2))]
    number = rows.real.sum(1, keepdim=True).clamp(min=1) * area
    output, mean, variance = OfRealRows.apply(x, weight, bias, real, number, eps)
    move(running_mean, mean, share)
    move(running_var, variance * number / (number - 1).clamp(min=1), share)
    return output


def move(running: Maybe, found: torch.Tensor, share: torch.Tensor | float) -> None:
    """Move a running statistic [A, C] towards that of the last batch, by its share: one for all, or one a client."""
    if running is not None:
        running.lerp_(found, share[:, None].to(found.dtype) if isinstance(share, torch.Tensor) else share)


class OfRealRows(torch.autograd.Function):
    """BatchNorm of x [B, A, C, ...] from the real rows [B, A, 1, ...], and their mean and biased variance [A, C].

    `number` [A, 1] counts the values of a channel in them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Maybe, bias: Maybe, real: torch.Tensor, number: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        over, wide = (0, *range(3, x.dim())), (..., *[None] * (x.dim() - 3))
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean = torch.where(real, x, 0).sum(over, dtype=dtype) / number
        centred = torch.where(real, x - mean[wide], 0)
        variance = centred.square().sum(over) / number
        inverse = (variance + eps).rsqrt()
        output = centred * (inverse if weight is None else inverse * weight)[wide]
        if bias is not None:
            output = output + bias[wide]
        ctx.save_for_backward(centred, inverse, weight, real, number)
        ctx.mark_non_differentiable(mean, variance)
        return output.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Maybe, ...]:
        centred, inverse, weight, real, number = ctx.saved_tensors
        over, wide = (0, *range(3, centred.dim())), (..., *[None] * (centred.dim() - 3))
        slope = torch.where(real, slopes[0], 0).to(centred.dtype)
        of_bias, of_weight = slope.sum(over), (slope * centred).sum(over) * inverse
        of_x = None
        if ctx.needs_input_grad[0]:
            spread = slope - (of_bias / number)[wide] - centred * (of_weight * inverse / number)[wide]
            of_x = torch.where(real, spread * (inverse if weight is None else inverse * weight)[wide], 0)
        return (
            None if of_x is None else of_x.to(slopes[0].dtype),
            of_weight if ctx.needs_input_grad[1] else None,
            of_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


class RunningStatistics:
    """Those of many clients' BatchNorm layers, for each tensor a block [places, ...] in memory of its own.

    A BatchNorm of all clients' channels reads and writes a block as it lies.
    """

    def __init__(self, flat: FlatModel):
        self.flat = flat
        self.layers: Layers = {
            name: layer
            for name, layer in flat.module.named_modules()
            if isinstance(layer, BatchNorm) and f"{name}.running_mean" in flat.buffer_layout.names
        }
        counters = {f"{name}.num_batches_tracked": layer for name, layer in self.layers.items()}
        self.counters: Tensors = {
            name: layer.num_batches_tracked
            for name, layer in counters.items()
            if layer.momentum is None and layer.num_batches_tracked is not None
        }
        self.unread: dict[str, Any] = dict.fromkeys(counters.keys() - self.counters.keys())
        """Counters that nothing depends on. A layer with None in its place counts nothing."""
        self.blocks: Tensors = {}
        self.begun = flat.buffers

    def start(self, places: int, buffers: torch.Tensor) -> None:
        """Set the statistics of all clients to those in `buffers` [B], and their counters as they were built."""
        self.begun = buffers
        if not self.layers:
            return
        begin = {name: tensor for name, tensor in self.views(buffers).items() if self.is_moving(name)}
        begin |= self.counters
        if not self.blocks or len(next(iter(self.blocks.values()))) < places:
            self.blocks = {name: tensor.new_empty(places, *tensor.shape) for name, tensor in begin.items()}
        for name, tensor in begin.items():
            self.blocks[name][:places] = tensor

    def is_moving(self, name: str) -> bool:
        """Whether the buffer of this name is one of the layers' statistics."""
        return name.rpartition(".")[0] in self.layers

    def of(self, count: int) -> Tensors:
        """The tensors of the first `count` clients, by their names in the module."""
        return {name: block[:count] for name, block in self.blocks.items()}

    def moved(self, first: int, last: int) -> torch.Tensor:
        """How far the buffers of the clients from `first` up to, but without, `last` have moved: [last - first, B]."""
        found = self.begun.new_zeros(last - first, len(self.begun))
        far, begun = self.views(found), self.views(self.begun)
        for name in filter(self.is_moving, far):
            torch.sub(self.blocks[name][first:last], begun[name], out=far[name])
        return found

    def views(self, buffers: torch.Tensor) -> Tensors:
        return self.flat.buffer_layout.views(buffers)

    def forget(self) -> None:
        """Give up the memory."""
        self.blocks = {}
