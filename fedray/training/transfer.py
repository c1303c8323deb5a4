"""Copies between the host's memory and a device's, as few as possible.

A device works on its own. It computes some time after it was told to, and the host waits for each number that it reads.
So the results of a client's round stay on the device (Done), the updates of a block are added up there (outgoing.py),
and the host reads everything that it needs in one copy.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fedray.core.updates import Report, Vectors
from fedray.models.flat import Array, Tensors
from fedray.server.task import Task

Examples = tuple[Array, Array]  # uint8 images [n, c, h, w] and int64 labels [n]; tensors are on the device


def numbers_to(device: str, *numbers: np.ndarray) -> Iterable[torch.Tensor]:
    """Copy a few arrays of one shape and type to the device at once, without waiting."""
    stacked = torch.from_numpy(np.stack(numbers))
    if torch.device(device).type == "cuda":
        # torch does not use pinned memory again before a copy from it is done.
        return stacked.pin_memory().to(device, non_blocking=True).unbind()
    return stacked.to(device).unbind()


def to_host(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copy tensors of a device to the host at once, as arrays."""
    if not tensors:
        return []
    # The largest numbers first, so that each array begins where its numbers may.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    pieces = [as_bytes(tensors[i].detach().reshape(-1)) for i in order]
    copies = torch.cat(pieces).cpu().split([len(piece) for piece in pieces])
    found = {i: copy.view(tensors[i].dtype).view(tensors[i].shape) for i, copy in zip(order, copies, strict=True)}
    return [found[i].numpy() for i in range(len(tensors))]


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
    """Whether the loss and all of the update are finite, on the device; None where nobody has looked yet."""

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
