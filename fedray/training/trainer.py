"""The rounds of a process's clients, one after another, and the things that are held from one client to the next."""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fedray.core.algorithm import Algorithm
from fedray.core.mkl import steady_products
from fedray.core.randomness import torch_seed
from fedray.core.updates import Report, Vectors, num_bytes
from fedray.models.build import names_of
from fedray.models.flat import Array, Tensors
from fedray.server.task import Task
from fedray.training.captured import CapturedSteps
from fedray.training.client import Client
from fedray.training.fused.together import Together
from fedray.training.network import Network
from fedray.training.personal import OwnPart
from fedray.training.shards import place
from fedray.training.spec import Recipe
from fedray.training.transfer import Done, Received, to_device, to_host


def settle_in() -> None:
    """Make this process fit for training: one thread, and freed memory that is kept for the next tensor.

    By default glibc gives each tensor of some megabytes back to the kernel. Clearing its pages anew takes a tenth of a
    step's time and almost half of an evaluation's.
    """
    steady_products()  # a forked worker has the environment of its Ray
    torch.set_num_threads(1)
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library may not have it
            libc = ctypes.CDLL(None)
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)
            libc.mallopt(M_MMAP_THRESHOLD, 2**30)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Trainer:
    """A network that trains one client after another."""

    def __init__(self, recipe: Recipe, device: str = "cpu"):
        self.recipe, self.network = recipe, Network(recipe, device)
        self.on_device = self.network.on_device
        self.last_received: tuple[Vectors, Any, Tensors] | None = None
        self.own_parts: dict[Any, OwnPart] = {}
        self.together = Together(recipe, self.network.flat, device)
        if torch.device(device).type == "cuda":
            self.network.captured = CapturedSteps(self.network)

    def heed_by(self, heed: Callable[[], None]) -> None:
        """Call `heed` before each local step from now on. What it raises ends the client's round."""
        self.network.heed = self.together.heed = heed

    def train(
        self, task: Task, client: int, images: Array, labels: Array, memory: Vectors
    ) -> tuple[Vectors, Vectors, Report]:
        """One client's work on a task: its update before the chain, its new memory and its report.

        `images` is uint8 [n, c, h, w], `labels` is int64 [n]. No argument is changed.
        """
        with self.network.arithmetic():
            return self.read(self.work(self.received(task), client, images, labels, memory))

    def work(self, received: Received, client: int, images: Array, labels: Array, memory: Vectors) -> Done:
        """One client's round, as `train` plays it, with its results left on the device.

        The next client's round overwrites them.
        """
        began, cpu_began, task = time.perf_counter(), time.process_time(), received.task
        algorithm, t = task.algorithm, task.t
        images, labels = place(images, labels, self.network.device)
        message, remembered, own = self.receive(algorithm, received.message, memory)
        for layer in self.network.dropouts:
            layer.key = None  # that of a call that was stopped
        here = Client(self.network, task, client, images, labels, message, remembered)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.recipe.seed, "dropout", t=t, client=client, attempt=task.attempt))
            update, remembered = algorithm.local_round(here, message, remembered, task.lr)
        if own:
            update, kept = own.split(message, update)
            remembered = {**remembered, **kept}
        new_memory = self.arrays(remembered)
        if self.on_device:  # what is kept is not to keep pinned memory
            new_memory = {name: array.copy() for name, array in new_memory.items()}
        found, wanted = tuple(update["params"].shape), tuple(message["params"].shape)
        if found != wanted:
            raise ValueError(f'finish() gave an update "params" of shape {found}, not {wanted}')
        loss: torch.Tensor | float = here.train_loss
        norm: torch.Tensor | float = torch.dot(update["params"], update["params"]).sqrt()
        if not self.on_device:
            loss, norm = float(loss), float(norm)
        unsent = own.num_bytes if own else 0
        report = Report(
            client=client,
            num_examples=len(labels),
            steps=here.steps,
            train_loss=loss if isinstance(loss, float) else None,
            update_norm=norm if isinstance(norm, float) else None,
            seconds=time.perf_counter() - began,
            bytes_down=received.bytes_down - unsent,
            bytes_up=num_bytes(update) - unsent,
            images=here.seen,
            cpu_seconds=time.process_time() - cpu_began,
        )
        return Done(update, new_memory, report, loss, norm)

    def read(self, done: Done) -> tuple[Vectors, Vectors, Report]:
        """The results of `train`, read from those of `work`. Waiting for a device counts as the client's seconds."""
        if not self.on_device:
            return self.arrays(done.update), done.memory, done.report
        began, cpu_began = time.perf_counter(), time.process_time()
        *vectors, last_loss, last_norm = to_host([*done.update.values(), *done.numbers])
        loss, norm = last_loss.item(), last_norm.item()
        seconds = (done.report.seconds or 0.0) + time.perf_counter() - began
        cpu_seconds = (done.report.cpu_seconds or 0.0) + time.process_time() - cpu_began
        report = replace(done.report, train_loss=loss, update_norm=norm, seconds=seconds, cpu_seconds=cpu_seconds)
        return dict(zip(done.update, vectors, strict=True)), done.memory, report

    def received(self, task: Task) -> Received:
        """A task as clients here get it: its message on the device, with its inputs in it."""
        message = self.on_its_place(task.message)
        if task.inputs:
            message = task.algorithm.receive(message, [self.tensors(vectors) for vectors in task.inputs])
        return Received(task, message, num_bytes(task.message) + sum(map(num_bytes, task.inputs)))

    def on_its_place(self, message: Vectors) -> Tensors:
        """Copy a message to the device, once per message.

        Read-only arrays at the same address are the same message, because this object keeps the last one alive. Arrays
        from Ray's object store are read-only. A message that can be written to is copied each time.
        """
        if not self.on_device:
            return self.tensors(message)
        places: Any = {name: vector.__array_interface__ if vector.size else 0 for name, vector in message.items()}
        if any(vector.flags.writeable for vector in message.values() if vector.size):
            places = None
        if self.last_received is None or places is None or places != self.last_received[1]:
            self.last_received = message, places, self.tensors(message)
        return self.last_received[2]

    def receive(
        self, algorithm: Algorithm, message: Tensors, memory: Vectors
    ) -> tuple[Tensors, Tensors, OwnPart | None]:
        """A message and a memory as tensors. The client's own part is in place. A missing memory is made."""
        remembered, own = self.tensors(memory), self.own_part(algorithm)
        if algorithm.remembers and not remembered:
            remembered = algorithm.init_memory(self.network.initial["params"], self.network.initial["buffers"])
            remembered = {**remembered, **(own.of(self.network.initial) if own else {})}
        return own.join(message, remembered) if own else message, remembered, own

    def own_part(self, algorithm: Algorithm) -> OwnPart | None:
        """The part of the model that stays at the clients; None where the algorithm has none."""
        if not algorithm.personalises:
            return None
        if algorithm not in self.own_parts:
            names, norms = names_of(self.network.flat)
            self.own_parts[algorithm] = OwnPart(self.network.flat, set(algorithm.personal(names, norms)))
        return self.own_parts[algorithm]

    def tensors(self, vectors: Vectors | Tensors) -> Tensors:
        """Vectors as tensors on the device, copied at once. Tensors are there already."""
        found: Tensors = {name: vector for name, vector in vectors.items() if isinstance(vector, torch.Tensor)}
        arrays: dict[str, Any] = {name: vector for name, vector in vectors.items() if name not in found}
        there = dict(zip(arrays, to_device(self.network.device, list(arrays.values())), strict=True))
        return {name: there[name] if name in there else found[name] for name in vectors}

    def arrays(self, tensors: Mapping[str, Any]) -> Vectors:
        """Tensors or arrays as NumPy arrays. They share no memory with the model, which the next client overwrites."""
        if self.on_device:
            return dict(zip(tensors, to_host(list(tensors.values())), strict=True))
        return {
            name: vector
            if isinstance(vector, np.ndarray)
            else (vector.clone() if vector.untyped_storage().data_ptr() in self.overwritten else vector).numpy()
            for name, vector in tensors.items()
        }

    @cached_property
    def overwritten(self) -> set[int]:
        """The addresses of the vectors that the model trains in."""
        flat = (self.network.flat.params, self.network.flat.grads, self.network.flat.buffers)
        return {vector.untyped_storage().data_ptr() for vector in flat if len(vector)}
