"""Local training of one client: the SGD loop, once.

The engine owns the loop; an algorithm fills its hooks (`loss`, `penalty`, `correct`, `finish`). Everything random has
an address (seed, round, client), so the same client in the same round gives the same bits in whatever process it runs.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fedray.models.dropout import dropout_keys, keyed
from fedray.models.flat import Array, Tensors, tensor_of

if TYPE_CHECKING:
    from fedray.training.trainer import Trainer

T = TypeVar("T")


class Client:
    """One client in one round, as the hooks that replace its local training, or follow it, see it.

    The tensors that it gives are overwritten by its next call. `images` and `labels` are NumPy arrays, or, on a GPU,
    tensors that are there.
    """

    def __init__(
        self,
        trainer: "Trainer",
        algorithm: Any,
        number: int,
        images: Array,
        labels: Array,
        message: Tensors,
        memory: Tensors,
        t: int,
        lr: float,
        first_epoch: int = 0,
    ):
        self.trainer, self.algorithm, self.number = trainer, algorithm, number
        self.images, self.labels, self.message, self.memory, self.t, self.lr = images, labels, message, memory, t, lr
        self.epoch = self.call = first_epoch  # the next of a round's passes over the shard, and of its descents
        self.steps = 0
        self.train_loss: torch.Tensor | float = math.nan
        """Of the first `descend`, as is `steps`; not read from the device yet."""
        self.seen = 0
        """The images of all of them, each as often as it came."""

    def descend(
        self, start: Tensors, correct: Callable[..., torch.Tensor] | None, epochs: int | None = None
    ) -> tuple[Tensors, int]:
        """Local steps from the model `start`: the model, as {"params": [P], "buffers": [B]}, after so many steps.

        `correct` is a hook like FedAvg.correct; None descends along the gradient itself. `epochs` is for a number of
        its own instead of the algorithm's epochs or steps. A client that descends again sees its images in an order
        of their own.
        """
        trainer, algorithm, flat = self.trainer, self.algorithm, self.trainer.flat
        flat.load(start["params"], start["buffers"])
        flat.train()
        velocity, losses, seen, steps = None, torch.zeros((), dtype=torch.float64, device=trainer.device), 0, 0
        optimizer = algorithm.make_optimizer(flat.trainable, self.lr)
        # Where nothing changes the gradient, a step needs no flat copy of it: a twentieth of the CNN's time.
        plainly = not (correct or optimizer or algorithm.clip_norm or algorithm.weight_decay or algorithm.momentum)
        references = trainer.references(algorithm.references(self.message, self.memory)) if algorithm.compares else {}
        for inputs, targets in self.batches(epochs):
            if algorithm.compares:
                outputs, features = trainer.outputs_and_features(flat.module, inputs)
            else:
                outputs = trainer.outputs(flat.module, inputs)
            main, loss = self.losses(outputs, targets)
            losses += main.detach().double() * len(targets)
            if algorithm.compares:
                rivals = {name: trainer.features(model, inputs) for name, model in references.items()}
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
        """The loss of the model's main output, which is the one that is reported, and the loss to descend.

        That is the main one and, as in GoogLeNet's paper (Szegedy et al. 2014, arXiv 1409.4842, section 5), those of
        the auxiliary classifiers, each times model.aux_weight. Evaluation goes by the main output alone.
        """
        main, *others = (self.algorithm.loss(output, targets) for output in outputs)
        return main, sum((self.trainer.recipe.model.aux_weight * other for other in others), start=main)

    def batches(self, epochs: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of a `descend`; those of the next one are drawn anew, and so are its dropout masks."""
        seed, first, per_epoch = self.trainer.recipe.seed, self.epoch, epoch_steps(self.algorithm, len(self.labels))
        drawn = self.algorithm.local_steps(seed, self.t, self.number, per_epoch)
        steps = epochs * per_epoch if epochs else drawn
        self.epoch += -(-steps // per_epoch)
        shard = self.number, self.images, self.labels
        return self.masked(self.trainer.batches(self.algorithm, *shard, self.t, first, steps), steps)

    def masked(self, items: Iterable[T], steps: int) -> Iterator[T]:
        """The same items, and the dropout masks of as many steps, each while its item is in use."""
        trainer, layers, call = self.trainer, self.trainer.dropouts, self.call
        self.call += 1
        if not layers:
            return iter(items)
        keys = dropout_keys(trainer.recipe.seed, self.t, self.number, steps, len(layers), call)
        return keyed(items, layers, torch.from_numpy(keys).to(trainer.device))

    def gradient(self, at: Tensors) -> torch.Tensor:
        """The gradient [P] of the mean loss over the whole shard at the model `at`, its images as they are.

        The shard is cut evenly into batches of at most batch_size, so that BatchNorm does not meet a batch of one; each
        batch's gradient is clipped as in a local step.
        """
        flat, trainer, n = self.trainer.flat, self.trainer, len(self.labels)
        flat.load(at["params"], at["buffers"])
        flat.train()
        batches = -(-n // (self.algorithm.batch_size or n))
        total = torch.zeros_like(flat.params)
        for i in self.masked(range(batches), batches):
            batch = slice(n * i // batches, n * (i + 1) // batches)
            inputs = trainer.inputs(tensor_of(self.images[batch]))
            targets = tensor_of(self.labels[batch]).to(trainer.device)
            _, loss = self.losses(trainer.outputs(flat.module, inputs), targets)
            total.add_(self.algorithm.clip(flat.gradient(loss)), alpha=len(targets) / n)
        return total


def epoch_steps(algorithm: Any, n: int) -> int:
    """The batches of an epoch over n examples."""
    size = algorithm.batch_size or n
    return n // size if algorithm.drop_last else -(-n // size)
