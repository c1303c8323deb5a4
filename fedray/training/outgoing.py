"""The one way of an update, from an algorithm's `finish` to a sum, in both engines, on the host and on a device.

Each client's update goes through the chain of transforms (Task.chain). Then it is added to its block's sum, or kept
apart. An update that is not finite, or whose loss is not, does not count. A device computes some time after it was
told to, so there nothing is read before the last client is done: such an update then counts as minus zeros, which
change no sum, nor the sign of a zero in it.
"""

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from fedray.core.errors import blamed_on
from fedray.core.updates import Report, Sum, Trained, Vectors, finite
from fedray.models.flat import Tensors
from fedray.server.task import Task
from fedray.training.trainer import Trainer
from fedray.training.transfer import Done, to_host

SENT = "sent/"  # begins the names of what clients remember for a transform


def split_memory(memory: Vectors) -> tuple[Vectors, Vectors]:
    """A client's memory for the algorithm, and that for the chain."""
    ours = {name: vector for name, vector in memory.items() if name.startswith(SENT)}
    if not ours:
        return memory, ours
    return {name: vector for name, vector in memory.items() if name not in ours}, ours


class Outgoing:
    """The updates of a block on their way: summed with `summed`, otherwise each by itself."""

    def __init__(self, trainer: Trainer, task: Task, summed: bool):
        self.trainer, self.task = trainer, task
        self.sum: Sum | None = task.aggregator.zero() if summed else None
        self.there = trainer.on_device and summed  # whether the sum is made on the device, and read once
        self.began, self.cpu_began = time.perf_counter(), time.process_time()
        self.each: list[Vectors] = []
        self.reports: list[Report] = []
        self.memories: list[dict[str, Any]] = []
        self.figures: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def add(self, done: Done, memory: Vectors) -> None:
        """Take a client's update. `memory` is what the client remembers for a chain, also where this task has none."""
        if self.there:
            self.add_there(done, memory)
            return
        # Only a device computes after the call, so that only there reading can fail.
        client = done.report.client
        with self.blamed(client) if self.trainer.on_device else nullcontext():
            update, own, report = self.trainer.read(done)
            counts = True if done.counts is None else bool(done.counts)
        counts = counts and finite(update) and report.train_loss is not None and math.isfinite(report.train_loss)
        if self.task.chain:
            with self.blamed(client):
                sent, memory, report = self.through_chain(as_tensors(update), memory, report)
            update = as_arrays(sent)
            counts = counts and finite(update)
        if not counts:
            report = replace(report, status="non_finite")
        self.reports.append(report)
        self.memories.append({**own, **as_arrays(memory)} if memory else own)
        if not counts:
            return
        if self.sum is None:
            # What is kept is not to keep pinned memory.
            self.each.append({n: v.copy() for n, v in update.items()} if self.trainer.on_device else update)
            return
        with self.blamed(client):
            self.sum.add_update(update, self.task.weight(report))

    def add_there(self, done: Done, memory: Vectors) -> None:
        loss, norm = done.numbers
        counts, update, report = done.counts, done.update, done.report
        with self.blamed(report.client):
            looked_at = counts is not None and not self.task.chain
            if counts is None:
                counts = torch.isfinite(loss) & all_finite(update)
            if self.task.chain:
                update, memory, report = self.through_chain(dict(update), memory, report)
                counts = counts & all_finite(update)
            if not looked_at:
                update = {name: vector.masked_fill(~counts, -0.0) for name, vector in update.items()}
            assert self.sum is not None
            self.sum.add_update(update, self.task.weight(report))
        self.reports.append(report)
        self.memories.append({**done.memory, **memory})
        self.figures.append((loss, norm, counts))

    def through_chain(self, update: Tensors, memory: Mapping[str, Any], report: Report) -> tuple[Tensors, Any, Report]:
        """The update as it is read on the other side, the chain's new memory, and the report with the bytes sent."""
        address, sent = self.task.address(self.trainer.recipe.seed, report.client), report.bytes_up
        renewed: dict[str, Any] = dict(memory)
        device = next(iter(update.values())).device  # the host's where the update was read
        for transform in self.task.chain:
            own = f"{SENT}{transform.name}/"
            mine = {name.removeprefix(own): v for name, v in memory.items() if name.startswith(own)}
            mine = {name: torch.as_tensor(v).to(device) for name, v in mine.items()}
            if transform.remembers and not mine:
                mine = transform.init_memory(update)
            sent = transform.encoded_bytes(update, sent)
            update, mine = transform.apply(update, mine, address)
            renewed |= {own + name: tensor for name, tensor in mine.items()}
        return update, renewed, replace(report, bytes_up=sent)

    def blamed(self, client: int) -> Any:
        return blamed_on(f"client {client} failed in round {self.task.t}")

    def result(self) -> tuple[Trained, list[Vectors]]:
        """The sum or each, with the reports, and the clients' new memories."""
        if self.there:
            self.read()
        return Trained(self.reports, self.sum, self.each), self.memories

    def read(self) -> None:
        """Read everything from the device in one copy.

        The clients share the time since the first one began, in proportion to their own seconds.
        """
        assert self.sum is not None
        numbers = [torch.stack(each) for each in zip(*self.figures, strict=True)]
        later = [
            (i, name) for i, memory in enumerate(self.memories) for name in memory if torch.is_tensor(memory[name])
        ]
        there: dict[str, Any] = self.sum.vectors
        kept = [self.memories[i][name] for i, name in later]
        losses, norms, counts, *arrays = to_host([*numbers, *there.values(), *kept])
        for (i, name), array in zip(later, arrays[len(there) :], strict=True):
            self.memories[i][name] = array.copy()  # what is kept is not to keep pinned memory
        longer = (time.perf_counter() - self.began) / sum(report.seconds or 0.0 for report in self.reports)
        cpu_seconds = sum(report.cpu_seconds or 0.0 for report in self.reports)
        busier = (time.process_time() - self.cpu_began) / cpu_seconds if cpu_seconds else 0.0
        total = sum(self.task.weight(report) for report, ok in zip(self.reports, counts, strict=True) if ok)
        self.sum.vectors = dict(zip(there, arrays, strict=False)) if counts.any() else {}
        self.sum.weight = total
        self.reports = [
            replace(
                report,
                train_loss=loss,
                update_norm=norm,
                seconds=(report.seconds or 0.0) * longer,
                cpu_seconds=(report.cpu_seconds or 0.0) * busier,
                status="ok" if ok else "non_finite",
            )
            for report, loss, norm, ok in zip(
                self.reports, losses.tolist(), norms.tolist(), counts.tolist(), strict=True
            )
        ]


def all_finite(update: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Whether every number in the tensors is finite, on their device."""
    # The largest of all magnitudes is not finite if one is not. It takes one pass, and isfinite takes four.
    largest = [torch.linalg.vector_norm(vector, torch.inf) for vector in update.values() if vector.numel()]
    return torch.stack(largest).isfinite().all()


def as_tensors(vectors: Mapping[str, Any]) -> Tensors:
    """Arrays as tensors that share their memory."""
    return {name: torch.from_numpy(vector) for name, vector in vectors.items()}


def as_arrays(tensors: Mapping[str, Any]) -> Vectors:
    """Tensors of the host as arrays that share their memory. Arrays stay as they are."""
    return {name: tensor.numpy() if isinstance(tensor, torch.Tensor) else tensor for name, tensor in tensors.items()}
