"""Copies between the host's memory and a device's, as few as possible.

A device works on its own. It computes some time after it was told to, and the host waits for each number that it reads.
So the results of a client's round stay on the device (Done), the updates of a block are added up there (SumThere), and
the host reads everything that it needs in one copy.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from fedray.core.updates import Report, Sum, Vectors
from fedray.models.flat import Array, Tensors

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
    pieces = [tensors[i].detach().reshape(-1).contiguous().view(torch.uint8) for i in order]
    copies = torch.cat(pieces).cpu().split([len(piece) for piece in pieces])
    found = {i: copy.view(tensors[i].dtype).view(tensors[i].shape) for i, copy in zip(order, copies, strict=True)}
    return [found[i].numpy() for i in range(len(tensors))]


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


class SumThere:
    """The weighted sum of a block's updates, made where they are and read once. It equals updates.Sum to the bit.

    An update that is not finite, or whose loss is not, counts as minus zeros. They change no sum, nor the sign of a
    zero in it.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.vectors: Tensors = {}
        self.reports: list[Report] = []
        self.weights: list[float] = []
        self.losses: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []
        self.counts: list[torch.Tensor] = []

    def add(self, done: Done, weight: float) -> None:
        loss, norm = done.numbers
        counts = done.counts
        if counts is None:
            counts = torch.isfinite(loss)
            for vector in done.update.values():
                counts = counts & torch.isfinite(vector).all()
        leave_out = ~counts
        for name, vector in done.update.items():
            # Two operations, because NumPy rounds twice. One that multiplies and adds would round once.
            part = (vector * float(np.float32(weight))).masked_fill_(leave_out, -0.0)
            self.vectors[name] = self.vectors[name].add_(part) if name in self.vectors else part
        self.reports.append(done.report)
        self.weights.append(weight)
        self.losses.append(loss)
        self.norms.append(norm)
        self.counts.append(counts)

    def read(self) -> tuple[Sum, list[Report]]:
        """Read the sum and the reports, in one copy.

        The clients share the time since the first one began, in proportion to their own seconds.
        """
        numbers = [torch.stack(each) for each in (self.losses, self.norms, self.counts)]
        losses, norms, counts, *vectors = to_host([*numbers, *self.vectors.values()])
        longer = (time.perf_counter() - self.began) / sum(report.seconds or 0.0 for report in self.reports)
        reports = [
            replace(
                report,
                train_loss=loss,
                update_norm=norm,
                seconds=(report.seconds or 0.0) * longer,
                status="ok" if ok else "non_finite",
            )
            for report, loss, norm, ok in zip(
                self.reports, losses.tolist(), norms.tolist(), counts.tolist(), strict=True
            )
        ]
        weight = sum(weight for weight, ok in zip(self.weights, counts, strict=True) if ok)
        return Sum(dict(zip(self.vectors, vectors, strict=True)) if counts.any() else {}, weight), reports
