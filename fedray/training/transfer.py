"""Copies between the host's memory and a device's, as few as possible.

A device works on its own. It computes some time after it was told to, and the host waits for each number that it reads.
So the results of a client's round stay on the device (Done), the updates of a block are added up there (outgoing.py),
and the host reads everything that it needs in one copy.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch

from fedray.core.updates import Report, Vectors
from fedray.models.flat import Array, Tensors, tensor_of
from fedray.server.task import Task
from fedray.training.device import has_own_memory

Examples = tuple[Array, Array]  # inputs and targets, of the types that data/kinds.py says; tensors are on the device


ALIGNED = 512  # bytes; as torch's own allocator on a GPU, so that kernels read whole words
LARGEST_STAGED = 2**28  # bytes; torch keeps the pinned memory of a process for good
SMALL = 2**16  # bytes; tensors below are first joined on the device, since a copy costs some microseconds


def to_device(device: str, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Copy arrays to a device at once, as tensors, without waiting. For the host they are tensors in the same memory.

    The device copies from pinned memory, which torch does not use again before the copy is done.
    """
    if not has_own_memory(device) or not arrays:
        return [torch.from_numpy(array) for array in arrays]
    if sum(array.nbytes for array in arrays) > LARGEST_STAGED:
        return [torch.from_numpy(array).to(device) for array in arrays]  # which waits
    ends = list(accumulate(-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays))
    staged, places = pinned(max(ends, default=0), device), []
    for array, end in zip(arrays, ends, strict=True):
        first = end - -(-array.nbytes // ALIGNED) * ALIGNED
        places.append(slice(first, first + array.nbytes))
        staged[places[-1]].numpy().view(array.dtype).reshape(array.shape)[...] = array
    there = staged.to(device, non_blocking=True, copy=True)
    return [
        there[place].view(tensor_of(np.empty(0, array.dtype)).dtype).view(array.shape)
        for array, place in zip(arrays, places, strict=True)
    ]


def to_host(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copy tensors of a device to the host, as arrays. The host waits once."""
    found: dict[int, np.ndarray] = {}
    small: list[int] = []
    # The largest numbers first, so that each array begins where its numbers may.
    for i in sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size()):
        if tensors[i].nbytes < SMALL or not tensors[i].is_cuda:
            small.append(i)
            continue
        tensor = tensors[i].detach().contiguous()
        copy = pinned(tensor.nbytes, "cuda").view(tensor.dtype).view(tensor.shape)
        found[i] = copy.copy_(tensor, non_blocking=True).numpy()
    if small:
        pieces = [as_bytes(tensors[i].detach().reshape(-1)) for i in small]
        copies = torch.cat(pieces).cpu().split([len(piece) for piece in pieces])
        for i, copy in zip(small, copies, strict=True):
            found[i] = copy.view(tensors[i].dtype).view(tensors[i].shape).numpy()
    if len(small) < len(tensors):
        torch.cuda.current_stream().synchronize()  # also after small ones, since a copy of nothing waits for nothing
    return [found[i] for i in range(len(tensors))]


def pinned(size: int, device: str) -> torch.Tensor:
    """Bytes of the host that a GPU copies from, or to, by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=is_gpu(device))


def is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def as_bytes(vector: torch.Tensor) -> torch.Tensor:
    """The bytes of a vector. Only one whose numbers lie side by side can be looked at as bytes; a row of an expanded
    tensor with a number or none is contiguous to torch, and still is none of those."""
    aside = vector.contiguous() if vector.numel() > 1 else vector.clone(memory_format=torch.contiguous_format)
    return aside.view(torch.uint8)


class Received(NamedTuple):
    """A task whose message is where clients train."""

    task: Task
    message: Tensors
    bytes_down: int
    """The length of the message and of the task's inputs as they were sent."""


class Done(NamedTuple):
    """The results of a client's round. On a device they need not be computed yet."""

    update: Mapping[str, Any]
    """Vectors. They are tensors where the clients train, or arrays where engine = fused trained on the host."""
    memory: Vectors
    report: Report
    """On a device it lacks the loss and the norm, and its seconds are those of telling the device what to do."""
    train_loss: torch.Tensor | float
    update_norm: torch.Tensor | float
    counts: torch.Tensor | None = None
    """Whether the loss and all of the update are finite, on the device; None where nobody has looked yet. An update
    that is not is minus zeros already."""

    @property
    def numbers(self) -> list[torch.Tensor]:
        """The loss and the norm as tensors, on the update's device."""
        device = self.update["params"].device
        return [
            number if isinstance(number, torch.Tensor) else torch.tensor(number, dtype=torch.float64, device=device)
            for number in (self.train_loss, self.update_norm)
        ]


class Sheet:
    """Numbers of several types that stay in one place on a device. One copy writes them, and nobody waits for it."""

    def __init__(self, device: str, fields: Mapping[str, tuple[Any, tuple[int, ...]]]):
        """`fields` are types of NumPy and shapes, by name, in the order in which they lie."""
        self.fields = {name: (np.dtype(kind), shape) for name, (kind, shape) in fields.items()}
        self.places, end = {}, 0
        for name, (kind, shape) in self.fields.items():
            self.places[name] = slice(end, end + kind.itemsize * math.prod(shape))
            end += -(-self.places[name].stop // 8) * 8 - end  # each begins where its numbers may
        self.there = torch.zeros(end, dtype=torch.uint8, device=device)

    def __getitem__(self, name: str) -> torch.Tensor:
        """A field on the device."""
        kind, shape = self.fields[name]
        numbers = self.there[self.places[name]].view(torch.from_numpy(np.empty(0, kind)).dtype)
        return numbers.view(shape)

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the first numbers of fields that lie side by side. What else is in a field is not to be read after."""
        names = [name for name in self.fields if name in values]
        first, last = self.places[names[0]].start, self.places[names[-1]].stop
        sheet = torch.empty(last - first, dtype=torch.uint8, pin_memory=self.there.is_cuda)
        page = sheet.numpy()
        for name in names:
            kind, _ = self.fields[name]
            numbers = np.asarray(values[name], kind).reshape(-1).view(np.uint8)
            start = self.places[name].start - first
            page[start : start + len(numbers)] = numbers
        self.there[first:last].copy_(sheet, non_blocking=True)
