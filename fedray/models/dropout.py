"""Dropout whose masks have addresses: a mask is a function of a key and of each element's position, on any device.

The masks are cut from the words of a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3") in 32-bit integers, which wrap around alike everywhere. An element's position is scrambled by lowbias32
(Wellons 2018, "Prospecting for Hash Functions"). That is done once, because it does not depend on the key. A product
and a sum with the key, a shift and another product follow. They take less time than torch's own draws.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from fedray.core.randomness import generator
from fedray.models.parts import replace

T = TypeVar("T")
SHAPES = 8  # shapes of inputs for which a layer keeps the scrambled positions


class KeyedDropout(nn.Dropout):
    """nn.Dropout with masks from `key`, or from torch's generator while there is no key."""

    key: torch.Tensor | None
    """[multiplier, summand], int32; the multiplier is odd. It is a buffer, so that torch.func.functional_call can
    replace it. While it is None it is not among the module's buffers. It is never in a state dict."""

    def __init__(self, p: float, inplace: bool):
        super().__init__(p, inplace)
        self.register_buffer("key", None, persistent=False)
        self.calls = 0
        """The calls in this forward pass of the network so far. A layer that is used twice draws two masks by it."""
        self.positions: dict[tuple[object, ...], torch.Tensor] = {}

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  as nn.Dropout
        if not self.training or self.p == 0:
            return input
        if self.p < 1 and self.key is None:
            return super().forward(input)
        if input.device.type in IN_FEW_LAUNCHES and not self.inplace and self.p < 1:
            return Dropped.apply(input, *self.words_of(), self.scrambled(input), self.p)[0]
        noise = self.noise(input) if self.p < 1 else 0.0
        return input.mul_(noise) if self.inplace else input * noise

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        """The factors for x [B, ...]: 1 / (1 - p) with probability 1 - p, to within 2**-31, and otherwise 0.

        The factor of element i, in the order of the dimensions, depends neither on B nor on the memory format.
        """
        multiplier, summand = self.words_of()
        # A shift of an int32 repeats its sign, so x ^ (x >> 16) takes each of 2**31 values twice. Times 2 * SECOND,
        # which is twice an odd number, these are all the even words.
        words = self.scrambled(x).mul(multiplier).add_(summand)
        words = words.bitwise_xor_(words >> 16).mul_(wrap(2 * SECOND))
        return ((words < threshold(self.p)) * (1 / (1 - self.p))).to(x.dtype)

    def words_of(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The multiplier and the summand of this call."""
        assert self.key is not None
        multiplier, summand = self.key.unbind(-1)
        if self.calls:
            multiplier, summand = multiplier * wrap(ODD**self.calls), summand + wrap(GOLDEN * self.calls)
        self.calls += 1
        return multiplier, summand

    def scrambled(self, x: torch.Tensor) -> torch.Tensor:
        """The scrambled positions of x's elements, in x's memory format. They are made for the largest batch so far."""
        rows, *rest = x.shape
        strides = x.stride()  # under vmap torch does not tell the memory format
        order = sorted(range(x.dim()), key=lambda dim: -strides[dim])
        place = (*rest, *order, x.device)
        found = self.positions.get(place)
        if found is None or len(found) < rows:
            with torch._C._DisableFuncTorch():  # otherwise the kept tensor would stay wrapped for a transform
                found = scramble(torch.arange(x.shape.numel(), dtype=torch.int32, device=x.device)).view(x.shape)
                found = found.permute(order).contiguous().permute(*np.argsort(order).tolist())
            # Further shapes are not kept: a tensor that is made while a CUDA graph is captured does not last.
            if place in self.positions or len(self.positions) < SHAPES:
                self.positions[place] = found
        return found if len(found) == rows else found[:rows]


class Dropped(torch.autograd.Function):
    """x times the factors of KeyedDropout.noise, in six launches, and one for the gradient. A CPU has no use for it:
    there addcmul of int32 takes 4.6 times as long as a product and a sum."""

    @staticmethod
    def forward(
        x: torch.Tensor, multiplier: torch.Tensor, summand: torch.Tensor, scrambled: torch.Tensor, p: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        words = torch.empty_like(x, dtype=torch.int32)  # in the memory format of x
        torch.addcmul(summand, scrambled, multiplier, out=words)
        words.bitwise_xor_(words >> 16).mul_(wrap(2 * SECOND))
        kept = words < threshold(p)
        return torch.ops.aten.native_dropout_backward(x, kept, factor(p, x.dtype)), kept

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.factor = factor(inputs[-1], inputs[0].dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (kept,), slope = ctx.saved_tensors, slopes[0]
        if slope is None:
            return None, None, None, None, None
        return torch.ops.aten.native_dropout_backward(slope, kept, ctx.factor), None, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        dims: Any,
        x: torch.Tensor,
        multiplier: torch.Tensor,
        summand: torch.Tensor,
        scrambled: torch.Tensor,
        p: float,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
        x = x.expand(info.batch_size, *x.shape) if dims[0] is None else x.movedim(dims[0], 0)
        key = [
            each.movedim(dim, 0).view(-1, *[1] * (x.dim() - 1)) if dim is not None else each
            for each, dim in zip((multiplier, summand), dims[1:3], strict=True)
        ]
        return Dropped.apply(x, *key, scrambled, p), (0, 0)


IN_FEW_LAUNCHES = {"cuda"}
"""The kinds of devices on which `Dropped` takes the place of a product with `noise`."""

FIRST, SECOND = 0x7FEB352D, 0x846CA68B  # of lowbias32
ODD, GOLDEN = 0xD35A2D97, 0x9E3779B9  # change a key from one use of a layer to the next


def scramble(x: torch.Tensor) -> torch.Tensor:
    """lowbias32 of int32 words, a one-to-one map."""
    for shift, factor in ((16, FIRST), (15, SECOND)):
        x = (x ^ (x >> shift & (1 << 32 - shift) - 1)) * wrap(factor)
    return x ^ (x >> 16 & 0xFFFF)


@cache
def factor(p: float, dtype: torch.dtype) -> float:
    """1 / (1 - p) as a number of this type."""
    return float(torch.tensor(1 / (1 - p), dtype=dtype))


def wrap(number: int) -> int:
    """The int32 that is equal to `number` modulo 2**32."""
    return (number + 2**31) % 2**32 - 2**31


def threshold(p: float) -> int:
    """The bound below which a share of 1 - p of the even int32 words lies: at least one of them, and not all."""
    return 2 * min(max(round((1 - p) * 2**31), 1), 2**31 - 1) - 2**31


def use_keyed_dropout(module: nn.Module) -> None:
    """Replace every nn.Dropout by a KeyedDropout. Classes derived from nn.Dropout stay."""
    made: dict[nn.Module, KeyedDropout] = {}
    for name, layer in [*module.named_modules(remove_duplicate=False)]:
        if type(layer) is nn.Dropout and name:
            if layer not in made:
                made[layer] = KeyedDropout(layer.p, layer.inplace).train(layer.training)
            replace(module, name, made[layer])
    if made:
        module.register_forward_pre_hook(start_counting)


def start_counting(module: nn.Module, _: object) -> None:
    """Set the calls of all layers to 0 as a forward pass of the network begins."""
    for layer in dropout_layers(module).values():
        layer.calls = 0


def dropout_layers(module: nn.Module) -> dict[str, KeyedDropout]:
    """The layers that take keys, by name, in the module's order, which is also the order of their keys."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, KeyedDropout)}


def dropout_keys(
    seed: int, t: int, client: int, steps: int, layers: int, call: int = 0, attempt: int = 0
) -> np.ndarray:
    """The keys of a client's steps in round t, int32 [steps, layers, 2].

    `call` is 0 for its local steps, and differs for anything else that it trains or differentiates in the round.
    `attempt` is as in core.randomness.
    """
    if not layers:
        return np.empty((steps, 0, 2), np.int32)
    rng = generator(seed, "dropout", t=t, client=client, epoch=key_epoch(call), attempt=attempt)
    return draw_keys(rng, steps, layers)


def key_epoch(call: int = 0) -> int:
    """The epoch in the address of a call's keys. Epoch 0 of the purpose "dropout" is torch_seed's."""
    return call + 1


def draw_keys(rng: np.random.Generator, steps: int, layers: int) -> np.ndarray:
    """Keys from the generator at their address, int32 [steps, layers, 2]."""
    keys = rng.integers(0, 2**32, (steps, layers, 2), np.uint32).view(np.int32)
    keys[..., 0] |= 1
    return keys


def keyed(items: Iterable[T], layers: Collection[KeyedDropout], keys: torch.Tensor) -> Iterator[T]:
    """The same items. While the caller uses an item, the layers have its keys, from [items, layers, 2]."""
    for item, row in zip(items, keys, strict=True):
        for layer, key in zip(layers, row, strict=True):
            layer.key = key
        yield item
    # A `finally` would run too late: a kept traceback may delay it until the layers have another client's keys.
    for layer in layers:
        layer.key = None
