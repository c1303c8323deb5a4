"""Models as flat vectors: the layout of the vectors, and modules whose tensors are views of them.

`params` is float32 [P], all trainable parameters in the module's own order. `buffers` is float32 [B], all
floating-point buffers (BatchNorm statistics). Frozen parameters and integer buffers are in neither vector. After every
load they are as they were built. A layer whose own parameters are all frozen is frozen whole, and so is a layer that
was built in evaluation mode. It is never in training mode, and its buffers stay as they were built, too.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
Array = np.ndarray | torch.Tensor


def tensor_of(array: Array) -> torch.Tensor:
    """The array as a tensor in the same memory."""
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)


@dataclass(frozen=True)
class Layout:
    """The places of named tensors in a flat vector of `size` elements."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def size(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    def places(self, names: Collection[str]) -> np.ndarray:
        """The positions of the named tensors' elements in the flat vector, in order: int64."""
        sizes = [prod(shape) for shape in self.shapes]
        return np.flatnonzero(np.repeat([name in names for name in self.names], sizes))

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each named tensor as a view of `flat` [..., size]. Writing to a view writes to `flat`."""
        pieces = flat.split([prod(shape) for shape in self.shapes], dim=-1)
        return {
            name: piece.view(*flat.shape[:-1], *shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }


def frozen_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of a new module that are frozen whole, by name."""
    found = {}
    for name, layer in module.named_modules():
        own = list(layer.parameters(recurse=False))
        if not layer.training or (own and not any(parameter.requires_grad for parameter in own)):
            found[name] = layer
    return found


def sgd(params: list[torch.Tensor], directions: list[torch.Tensor], lr: torch.Tensor) -> None:
    """params -= lr * directions, for float32 tensors whose strides are equal and an `lr` [] on their device.

    The product and the difference are rounded once, as in `add` with an `alpha`. No other operation of torch does that
    with a factor on the device.
    """
    plain: Any = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0}
    torch._fused_sgd_(params, directions, [], lr=lr, nesterov=False, maximize=False, is_first_step=False, **plain)


class FlatModel:
    """A module whose parameters, gradients and buffers are views of three flat float32 tensors.

    Loading a message is then one copy, and the difference of two models one subtraction.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu"):
        self.module = module.to(device)
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.frozen = frozen_layers(module)
        floating: Tensors = {}
        others: Tensors = {}
        for name, buffer in module.named_buffers():
            moves = buffer.is_floating_point() and name.rpartition(".")[0] not in self.frozen
            (floating if moves else others)[name] = buffer
        self.layout = Layout(tuple(trainable), tuple(p.shape for p in trainable.values()))
        self.buffer_layout = Layout(tuple(floating), tuple(b.shape for b in floating.values()))
        self.params = torch.zeros(self.layout.size, device=device)
        self.grads = torch.zeros(self.layout.size, device=device)
        self.buffers = torch.zeros(self.buffer_layout.size, device=device)
        self.trainable: list[torch.Tensor] = list(trainable.values())
        self.others = list(others.values())
        self.others_built = [buffer.clone() for buffer in self.others]
        views = self.layout.views(self.params)
        for name, parameter in trainable.items():
            views[name].copy_(parameter.detach())
            parameter.data = views[name]
        for name, view in self.buffer_layout.views(self.buffers).items():
            view.copy_(floating[name])
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner)._buffers[leaf] = view

    def train(self) -> None:
        """Put the module into training mode, except the layers that are frozen whole."""
        self.module.train()
        for layer in self.frozen.values():
            layer.training = False

    @torch.no_grad()
    def load(self, params: torch.Tensor, buffers: torch.Tensor) -> None:
        """Set the module's parameters [P] and buffers [B] from flat vectors, and other buffers as they were built."""
        self.params.copy_(params)
        self.buffers.copy_(buffers)
        if self.others:
            torch._foreach_copy_(self.others, self.others_built)

    @contextmanager
    def moved_to(self, params: torch.Tensor, buffers_stay: bool) -> Iterator[None]:
        """The module at other params [P] for the length of a `with`. With `buffers_stay` its buffers return, too."""
        kept = [(self.params, self.params.clone())] if params is not self.params else []
        kept += [(buffer, buffer.clone()) for buffer in (self.buffers, *self.others)] if buffers_stay else []
        self.params.copy_(params)
        try:
            yield
        finally:
            for tensor, before in kept:
                tensor.copy_(before)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of `loss` as a flat vector [P]. The next call overwrites it."""
        return torch.cat([grad.reshape(-1) for grad in self.gradients(loss)], out=self.grads)

    @torch.no_grad()
    def descend(self, grads: Sequence[torch.Tensor], lr: float | torch.Tensor) -> None:
        """A step of plain SGD along the gradients of each parameter: the same bits as params -= lr * [P], without it.

        `lr` is a number, or float32 [] on the device for a CUDA graph, where a number would stay as it is.
        """
        if isinstance(lr, torch.Tensor):
            sizes = [parameter.numel() for parameter in self.trainable]
            sgd(list(self.params.split(sizes)), [grad.reshape(-1) for grad in grads], lr)
        else:
            torch._foreach_add_(self.trainable, list(grads), alpha=-lr)

    @torch.no_grad()
    def move(self, direction: torch.Tensor, lr: float | torch.Tensor) -> None:
        """params -= lr * direction [P], where `lr` is as in `descend`."""
        if isinstance(lr, torch.Tensor):
            sgd([self.params], [direction], lr)
        else:
            self.params.add_(direction, alpha=-lr)

    def step(self, optimizer: torch.optim.Optimizer, direction: torch.Tensor) -> None:
        """A step of an optimizer of `trainable`, with `direction` [P] as the gradient."""
        if direction is not self.grads:
            self.grads.copy_(direction)  # some optimizers write to their gradients
        for parameter, grad in zip(self.trainable, self.layout.views(self.grads).values(), strict=True):
            parameter.grad = grad
        optimizer.step()

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The gradients of `loss` with respect to each parameter, in the layout's order."""
        return torch.autograd.grad(loss, self.trainable, allow_unused=True, materialize_grads=True)
