"""Dropout whose masks have addresses: each is a function of a key and of where an element lies, on any device.

The words that the masks are cut from are those of a counter-based generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3") in 32-bit integers, which wrap around alike everywhere. An element's position is scrambled
by lowbias32 (Wellons 2018, "Prospecting for Hash Functions"), which no key changes, so that this is done once. A
product and a sum with a key, a shift and another product then take less time than torch's own draws.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from fedray.core.randomness import generator
from fedray.models.parts import replace

T = TypeVar("T")
SHAPES = 8  # of inputs that a layer keeps the scrambled positions for


class KeyedDropout(nn.Dropout):
    """nn.Dropout, whose masks come from `key` where it has one, and from torch's generator where not."""

    key: torch.Tensor | None
    """[multiplier, summand], int32, the former odd. It is a buffer, so that torch.func.functional_call can replace it,
    but while it is None it is not among the module's buffers; in no case is it in a state dict."""

    def __init__(self, p: float, inplace: bool):
        super().__init__(p, inplace)
        self.register_buffer("key", None, persistent=False)
        self.calls = 0
        """In this forward pass of the network so far, so that a layer that is used twice draws two masks."""
        self.positions: dict[tuple[object, ...], torch.Tensor] = {}

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  as nn.Dropout
        if not self.training or self.p == 0:
            return input
        if self.p < 1 and self.key is None:
            return super().forward(input)
        noise = self.noise(input) if self.p < 1 else 0.0
        return input.mul_(noise) if self.inplace else input * noise

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        """What to multiply x [B, ...] by: 0, or 1 / (1 - p) with a probability of 1 - p, to within 2**-31.

        Element i in the order of the dimensions, whatever it is in memory, has the same for every B.
        """
        assert self.key is not None
        multiplier, summand = self.key.unbind(-1)
        if self.calls:
            multiplier, summand = multiplier * wrap(ODD**self.calls), summand + wrap(GOLDEN * self.calls)
        self.calls += 1
        # A shift of an int32 repeats its sign, so that x ^ (x >> 16) takes each of 2**31 values twice; times an even
        # number, which has no other even factor than 2, these are all the even words.
        words = self.scrambled(x).mul(multiplier).add_(summand)
        words = words.bitwise_xor_(words >> 16).mul_(wrap(2 * SECOND))
        return ((words < threshold(self.p)) * (1 / (1 - self.p))).to(x.dtype)

    def scrambled(self, x: torch.Tensor) -> torch.Tensor:
        """The scrambled positions of x's elements, which lie in memory as it does; made for the largest batch only."""
        rows, *rest = x.shape
        strides = x.stride()  # under vmap torch does not tell the memory format
        order = sorted(range(x.dim()), key=lambda dim: -strides[dim])
        place = (*rest, *order, x.device)
        found = self.positions.get(place)
        if found is None or len(found) < rows:
            with torch._C._DisableFuncTorch():  # or what is kept would stay wrapped for a transform
                found = scramble(torch.arange(x.shape.numel(), dtype=torch.int32, device=x.device)).view(x.shape)
                found = found.permute(order).contiguous().permute(*np.argsort(order).tolist())
            # Beyond that many nothing takes another's place: what is made while a CUDA graph is captured does not last.
            if place in self.positions or len(self.positions) < SHAPES:
                self.positions[place] = found
        return found if len(found) == rows else found[:rows]


FIRST, SECOND = 0x7FEB352D, 0x846CA68B  # of lowbias32
ODD, GOLDEN = 0xD35A2D97, 0x9E3779B9  # change a key from one use of a layer to the next


def scramble(x: torch.Tensor) -> torch.Tensor:
    """lowbias32 of int32 words, one to one."""
    for shift, factor in ((16, FIRST), (15, SECOND)):
        x = (x ^ (x >> shift & (1 << 32 - shift) - 1)) * wrap(factor)
    return x ^ (x >> 16 & 0xFFFF)


def wrap(number: int) -> int:
    """The int32 that is equal to it modulo 2**32."""
    return (number + 2**31) % 2**32 - 2**31


def threshold(p: float) -> int:
    """What a share of 1 - p of the even int32 words is less than; never none of them, and never all."""
    return 2 * min(max(round((1 - p) * 2**31), 1), 2**31 - 1) - 2**31


def use_keyed_dropout(module: nn.Module) -> None:
    """Put KeyedDropout in the place of every nn.Dropout; a class that is derived from it stays."""
    made: dict[nn.Module, KeyedDropout] = {}
    for name, layer in [*module.named_modules(remove_duplicate=False)]:
        if type(layer) is nn.Dropout and name:
            if layer not in made:
                made[layer] = KeyedDropout(layer.p, layer.inplace).train(layer.training)
            replace(module, name, made[layer])
    if made:
        module.register_forward_pre_hook(start_counting)


def start_counting(module: nn.Module, _: object) -> None:
    """A forward pass of the network begins."""
    for layer in dropout_layers(module).values():
        layer.calls = 0


def dropout_layers(module: nn.Module) -> dict[str, KeyedDropout]:
    """The layers that take keys, by name, in the module's order, which is that of their keys."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, KeyedDropout)}


def dropout_keys(seed: int, t: int, client: int, steps: int, layers: int, call: int = 0) -> np.ndarray:
    """The keys of a client's steps in round t, int32 [steps, layers, 2].

    `call` tells apart its local steps (0) and whatever more it trains or differentiates in the round.
    """
    if not layers:
        return np.empty((steps, 0, 2), np.int32)
    # torch_seed takes epoch 0 of this purpose.
    rng = generator(seed, "dropout", t=t, client=client, epoch=call + 1)
    keys = rng.integers(0, 2**32, (steps, layers, 2), np.uint32).view(np.int32)
    keys[..., 0] |= 1
    return keys


def keyed(items: Iterable[T], layers: Collection[KeyedDropout], keys: torch.Tensor) -> Iterator[T]:
    """The same items; while one is in use, the layers have its keys, from [items, layers, 2]."""
    for item, row in zip(items, keys, strict=True):
        for layer, key in zip(layers, row, strict=True):
            layer.key = key
        yield item
    # Not in a `finally`, which may run as late as a traceback is kept, when the layers have another client's keys.
    for layer in layers:
        layer.key = None
