"""Local training of one client: the SGD loop, once.

The engine owns the loop. An algorithm fills its hooks (`loss`, `penalty`, `correct`, `finish`). Every random draw has
an address (seed, round, client), so the same client in the same round gives the same bits in every process.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from fedray.models.dropout import dropout_keys, keyed
from fedray.models.flat import Array, Tensors, tensor_of
from fedray.server.task import Task
from fedray.training.batches import cut_epoch, draw_batches, draw_epochs
from fedray.training.captured import Program
from fedray.training.network import Network
from fedray.training.step import Correct, Step, losses
from fedray.training.transfer import to_device

T = TypeVar("T")


class Client:
    """One client in one round, as an algorithm's `local_round` and `own_model` see it.

    Its next call overwrites the tensors that it returned. `images` and `labels` are NumPy arrays, or tensors on the
    GPU.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        number: int,
        images: Array,
        labels: Array,
        message: Tensors,
        memory: Tensors,
        first_epoch: int = 0,
    ):
        """`message` is the task's, on the device, with the client's own part in it."""
        self.network, self.algorithm, self.number = network, task.algorithm, number
        self.images, self.labels, self.message, self.memory = images, labels, message, memory
        self.t, self.lr, self.attempt = task.t, task.lr, task.attempt
        self.epoch = self.call = first_epoch  # numbers of the next pass over the shard, and of the next descent
        self.steps = 0
        self.train_loss: torch.Tensor | float = math.nan
        """The mean loss of the first `descend`, not read from the device yet; `steps` are that descend's, too."""
        self.seen = 0
        """The images of every `descend`, each counted as often as it was used."""

    @property
    def trainer(self) -> Network:
        """The network, by the name that algorithms knew it by up to version 0.3.0."""
        return self.network

    def descend(self, start: Tensors, correct: Correct | None, epochs: int | None = None) -> tuple[Tensors, int]:
        """Take local steps from the model `start`. Returns the model {"params": [P], "buffers": [B]} and the steps.

        `correct` is a hook like FedAvg.correct; None descends along the gradient itself. `epochs` replaces the
        algorithm's epochs or steps. A client that descends again sees its images in another order.
        """
        network, flat = self.network, self.network.flat
        flat.load(start["params"], start["buffers"])
        flat.train()
        step, batches = self.local_steps(correct, epochs)
        seen = steps = 0
        for batch in batches:
            network.heed()
            seen, steps = seen + step(batch), steps + 1
        self.seen += seen
        if not self.steps:
            self.steps, self.train_loss = steps, step.losses / seen
        return {"params": flat.params, "buffers": flat.buffers}, steps

    def local_steps(self, correct: Correct | None, epochs: int | None) -> tuple[Step | Program, Iterator[Any]]:
        """The step of one `descend`, and what it takes one after another. The next `descend` draws all of it anew."""
        network, algorithm, first = self.network, self.algorithm, self.epoch
        seed, per_epoch = network.recipe.seed, cut_epoch(algorithm, len(self.labels)).steps
        drawn = algorithm.local_steps(seed, self.t, self.number, per_epoch, self.attempt)
        steps = epochs * per_epoch if epochs else drawn
        self.epoch += -(-steps // per_epoch)
        address = self.t, first, steps, self.attempt
        references = network.references(algorithm.references(self.message, self.memory)) if algorithm.compares else {}
        given = correct, self.message, self.memory, self.lr
        if network.captured and network.captured.serves(algorithm, self.images):
            shard = self.number, self.images.shape, self.labels
            epochs_drawn = draw_epochs(network.recipe, algorithm, *shard, *address)
            program = network.captured.program(algorithm, *given, references, len(self.labels))
            return program, program.batches(self.images, self.labels, epochs_drawn, self.keys(steps))
        total = torch.zeros((), dtype=torch.float64, device=network.device)
        step = Step(network, algorithm, *given, total, references)
        batches = draw_batches(network, algorithm, self.number, self.images, self.labels, *address)
        return step, self.masked(batches, steps)

    def masked(self, items: Iterable[T], steps: int) -> Iterator[T]:
        """The same items. While an item is in use, the dropout layers have the masks of its step."""
        network, layers, drawn = self.network, self.network.dropouts, self.keys(steps)
        if not layers:
            return iter(items)
        (keys,) = to_device(network.device, [drawn])
        return keyed(items, layers, keys)

    def keys(self, steps: int) -> np.ndarray:
        """The keys of the dropout layers in the steps of a training, or of a gradient; as in dropout_keys."""
        network, call = self.network, self.call
        self.call += 1
        layers = len(network.dropouts)
        return dropout_keys(network.recipe.seed, self.t, self.number, steps, layers, call, self.attempt)

    def gradient(self, at: Tensors) -> torch.Tensor:
        """The gradient [P] of the mean loss over the whole shard at the model `at`. Images are not augmented.

        The shard is cut evenly into batches of at most batch_size, so that BatchNorm does not meet a batch of one. The
        gradient of each batch is clipped as in a local step.
        """
        flat, network, n = self.network.flat, self.network, len(self.labels)
        flat.load(at["params"], at["buffers"])
        flat.train()
        batches = -(-n // (self.algorithm.batch_size or n))
        total, mean = torch.zeros_like(flat.params), network.objective.mean(self.algorithm)
        for i in self.masked(range(batches), batches):
            batch = slice(n * i // batches, n * (i + 1) // batches)
            inputs = network.inputs(tensor_of(self.images[batch]))
            targets = tensor_of(self.labels[batch]).to(network.device)
            _, loss = losses(network, mean, network.outputs(flat.module, inputs), targets)
            total.add_(self.algorithm.clip(flat.gradient(loss)), alpha=len(targets) / n)
        return total
