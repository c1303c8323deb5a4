"""Local training of one client: the SGD loop, once.

The engine owns the loop. An algorithm fills its hooks (`loss`, `penalty`, `correct`, `finish`). Every random draw has
an address (seed, round, client), so the same client in the same round gives the same bits in every process.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from fedray.models.dropout import dropout_keys, keyed
from fedray.models.flat import Array, Tensors, tensor_of
from fedray.server.task import Task
from fedray.training.batches import cut_epoch, draw_batches
from fedray.training.network import Network
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

    def descend(
        self, start: Tensors, correct: Callable[..., torch.Tensor] | None, epochs: int | None = None
    ) -> tuple[Tensors, int]:
        """Take local steps from the model `start`. Returns the model {"params": [P], "buffers": [B]} and the steps.

        `correct` is a hook like FedAvg.correct; None descends along the gradient itself. `epochs` replaces the
        algorithm's epochs or steps. A client that descends again sees its images in another order.
        """
        network, algorithm, flat = self.network, self.algorithm, self.network.flat
        flat.load(start["params"], start["buffers"])
        flat.train()
        velocity, losses, seen, steps = None, torch.zeros((), dtype=torch.float64, device=network.device), 0, 0
        optimizer = algorithm.make_optimizer(flat.trainable, self.lr)
        # A step along the unchanged gradient needs no flat copy of it, which takes a twentieth of the CNN's time.
        plainly = not (correct or optimizer or algorithm.clip_norm or algorithm.weight_decay or algorithm.momentum)
        references = network.references(algorithm.references(self.message, self.memory)) if algorithm.compares else {}
        for inputs, targets in self.batches(epochs):
            network.heed()
            if algorithm.compares:
                outputs, features = network.outputs_and_features(flat.module, inputs)
            else:
                outputs = network.outputs(flat.module, inputs)
            main, loss = self.losses(outputs, targets)
            losses += main.detach().double() * len(targets)
            if algorithm.compares:
                rivals = {name: network.features(model, inputs) for name, model in references.items()}
                loss = loss + algorithm.penalty(features, rivals)
            seen, steps = seen + len(targets), steps + 1
            if plainly:
                flat.descend(loss, self.lr)
                continue
            direction = algorithm.clip(flat.gradient(loss))
            with torch.no_grad():
                if correct:
                    direction = correct(direction, flat.params, self.message, self.memory, self.lr)
                if optimizer:
                    flat.step(optimizer, direction)
                    continue
                if algorithm.weight_decay:
                    direction = direction.add(flat.params, alpha=algorithm.weight_decay)
                if algorithm.momentum:
                    velocity = (
                        direction.clone() if velocity is None else velocity.mul_(algorithm.momentum).add_(direction)
                    )
                    direction = velocity
                flat.params.add_(direction, alpha=-self.lr)
        self.seen += seen
        if not self.steps:
            self.steps, self.train_loss = steps, losses / seen
        return {"params": flat.params, "buffers": flat.buffers}, steps

    def losses(self, outputs: Sequence[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the model's main output, which is reported, and the loss to descend.

        The latter adds the losses of the auxiliary classifiers, each times model.aux_weight, as in GoogLeNet's paper
        (Szegedy et al. 2014, arXiv 1409.4842, section 5). Evaluation uses the main output alone.
        """
        main, *others = (self.algorithm.loss(output, targets) for output in outputs)
        return main, sum((self.network.recipe.model.aux_weight * other for other in others), start=main)

    def batches(self, epochs: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one `descend`. The next `descend` draws its batches and its dropout masks anew."""
        seed, first, per_epoch = self.network.recipe.seed, self.epoch, cut_epoch(self.algorithm, len(self.labels)).steps
        drawn = self.algorithm.local_steps(seed, self.t, self.number, per_epoch, self.attempt)
        steps = epochs * per_epoch if epochs else drawn
        self.epoch += -(-steps // per_epoch)
        shard = self.number, self.images, self.labels
        drawn_batches = draw_batches(self.network, self.algorithm, *shard, self.t, first, steps, self.attempt)
        return self.masked(drawn_batches, steps)

    def masked(self, items: Iterable[T], steps: int) -> Iterator[T]:
        """The same items. While an item is in use, the dropout layers have the masks of its step."""
        network, layers, call = self.network, self.network.dropouts, self.call
        self.call += 1
        if not layers:
            return iter(items)
        keys = dropout_keys(network.recipe.seed, self.t, self.number, steps, len(layers), call, self.attempt)
        return keyed(items, layers, to_device(network.device, [keys])[0])

    def gradient(self, at: Tensors) -> torch.Tensor:
        """The gradient [P] of the mean loss over the whole shard at the model `at`. Images are not augmented.

        The shard is cut evenly into batches of at most batch_size, so that BatchNorm does not meet a batch of one. The
        gradient of each batch is clipped as in a local step.
        """
        flat, network, n = self.network.flat, self.network, len(self.labels)
        flat.load(at["params"], at["buffers"])
        flat.train()
        batches = -(-n // (self.algorithm.batch_size or n))
        total = torch.zeros_like(flat.params)
        for i in self.masked(range(batches), batches):
            batch = slice(n * i // batches, n * (i + 1) // batches)
            inputs = network.inputs(tensor_of(self.images[batch]))
            targets = tensor_of(self.labels[batch]).to(network.device)
            _, loss = self.losses(network.outputs(flat.module, inputs), targets)
            total.add_(self.algorithm.clip(flat.gradient(loss)), alpha=len(targets) / n)
        return total
