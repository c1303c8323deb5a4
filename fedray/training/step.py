"""A local step of one client: the gradient of a batch's loss, and the params moved along it. It is written once."""

from collections.abc import Callable, Mapping, Sequence

import torch

from fedray.core.algorithm import Algorithm
from fedray.models.flat import Tensors
from fedray.training.network import Network
from fedray.training.objective import Mean

Correct = Callable[..., torch.Tensor]


class Step:
    """The local steps of a client, from a network's params, by an algorithm's settings and hooks."""

    def __init__(
        self,
        network: Network,
        algorithm: Algorithm,
        correct: Correct | None,
        message: Tensors,
        memory: Tensors,
        lr: float | torch.Tensor,
        losses: torch.Tensor,
        references: Mapping[str, torch.nn.Module],
    ):
        """`losses`, float64 [], sums up the loss of each batch times its size. `lr` is as in FlatModel.descend.

        `references` are the further models of an algorithm with a `penalty`.
        """
        self.network, self.algorithm, self.correct = network, algorithm, correct
        self.message, self.memory, self.lr, self.losses = message, memory, lr, losses
        self.velocity: torch.Tensor | None = None
        self.optimizer = None if isinstance(lr, torch.Tensor) else algorithm.make_optimizer(network.groups(lr), lr)
        # A step along the unchanged gradient needs no flat copy of it, which takes a twentieth of the CNN's time.
        changes = correct, self.optimizer, algorithm.has_own_gradient, network.factors is not None
        self.plainly = not any((*changes, algorithm.clip_norm, algorithm.weight_decay, algorithm.momentum))
        self.references = references
        self.mean = network.objective.mean(algorithm)

    def __call__(self, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
        """Take the step of a batch, its inputs and its targets. Returns the number of its examples."""
        self.move(self.gradient(*batch))
        return len(batch[1])

    def gradient(self, inputs: torch.Tensor, targets: torch.Tensor) -> Sequence[torch.Tensor]:
        """The gradient of a batch: of each parameter where it is descended as it is, otherwise clipped and flat [P]."""
        algorithm, flat = self.algorithm, self.network.flat
        if algorithm.has_own_gradient:
            assert not isinstance(self.lr, torch.Tensor)  # such steps are not captured
            gradient = BatchGradient(self, inputs, targets)
            found = algorithm.local_gradient(gradient, flat.params, self.message, self.memory, self.lr)
            if found.shape != flat.params.shape:
                shape, wanted = tuple(found.shape), tuple(flat.params.shape)
                raise ValueError(f"local_gradient() gave a gradient of shape {shape}, not {wanted}")
            return (algorithm.clip(found.clone()),)  # clipping writes to what may be the hook's own
        loss = self.loss(inputs, targets)
        return flat.gradients(loss) if self.plainly else (algorithm.clip(flat.gradient(loss)),)

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, counts: bool = True) -> torch.Tensor:
        """The loss of a batch to descend, at the network's params; the reported one is summed up if it `counts`."""
        network, algorithm, flat = self.network, self.algorithm, self.network.flat
        if algorithm.compares:
            outputs, features = network.outputs_and_features(flat.module, inputs)
        else:
            outputs = network.outputs(flat.module, inputs)
        main, loss = losses(network, self.mean, outputs, targets)
        if counts:
            self.losses.add_(main.detach(), alpha=len(targets))  # in float64, where the product is exact
        if algorithm.compares:
            rivals = {name: network.features(model, inputs) for name, model in self.references.items()}
            loss = loss + algorithm.penalty(features, rivals)
        return loss

    @torch.no_grad()
    def move(self, gradient: Sequence[torch.Tensor]) -> None:
        """Move the params along the gradient, corrected, decayed and with its momentum."""
        algorithm, flat = self.algorithm, self.network.flat
        if self.plainly:
            flat.descend(gradient, self.lr)
            return
        (direction,) = gradient
        if self.correct:
            direction = self.correct(direction, flat.params, self.message, self.memory, self.lr)
        if self.optimizer:
            flat.step(self.optimizer, direction)
            return
        if algorithm.weight_decay:
            direction = direction.add(flat.params, alpha=algorithm.weight_decay)
        if algorithm.momentum:
            if self.velocity is None:
                self.velocity = direction.clone()
            else:
                self.velocity.mul_(algorithm.momentum).add_(direction)
            direction = self.velocity
        factors = self.network.factors
        flat.move(direction if factors is None else direction * factors, self.lr)


class BatchGradient:
    """The gradient of one step's batch as a function of the params, for an algorithm's `local_gradient`."""

    def __init__(self, step: Step, inputs: torch.Tensor, targets: torch.Tensor):
        self.step, self.inputs, self.targets = step, inputs, targets
        self.calls = 0

    def __call__(self, at: torch.Tensor) -> torch.Tensor:
        """The gradient [P] of the mean loss at the params `at` [P], a new tensor. The network stays where it is.

        The first call moves BatchNorm's statistics, and its loss is the reported one.
        """
        flat, first = self.step.network.flat, self.calls == 0
        self.calls += 1
        with flat.moved_to(at, buffers_stay=not first):
            return flat.gradient(self.step.loss(self.inputs, self.targets, counts=first)).clone()


def losses(
    network: Network, mean: Mean, outputs: Sequence[torch.Tensor], targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `mean` loss of the model's main output, which is reported, and the loss to descend.

    The latter adds the losses of the auxiliary classifiers, each times model.aux_weight, as in GoogLeNet's paper
    (Szegedy et al. 2014, arXiv 1409.4842, section 5). Evaluation uses the main output alone.
    """
    main, *others = (mean(output, targets) for output in outputs)
    return main, sum((network.recipe.model.aux_weight * other for other in others), start=main)
