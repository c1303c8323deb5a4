"""The losses of the section [loss], computed. FedAvg.loss, the plain cross-entropy, is not among them.

Each is the mean over a batch's examples. That of labels and values is also the mean over an example's outputs, as in
torch.nn.BCEWithLogitsLoss, MSELoss and HuberLoss. With class weights the cross-entropy is the mean of w_y times an
example's loss. torch.nn.CrossEntropyLoss divides by the sum of the weights instead, so that an example's part would
depend on the rest of its batch.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from fedray.core import own_code
from fedray.core.algorithm import Algorithm
from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.core.settings import nearest
from fedray.training.spec import Recipe

Mean = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The mean loss of a batch, from the model's output and the targets."""


EXAMPLES = 4  # of a trial


class Objective:
    """The loss of a recipe on a device."""

    def __init__(self, recipe: Recipe, device: str = "cpu"):
        self.name, self.delta = recipe.loss.chosen(recipe.kind), recipe.loss.delta
        self.weights = torch.tensor(recipe.class_weights, device=device) if recipe.class_weights else None
        """The weights of the classes, or of the positives of each label, float32 [K]; None without weights."""
        self.function = find(self.name, recipe.loss_source) if recipe.loss.is_own else None
        self.is_plain = self.name == "cross_entropy" and self.weights is None
        """Whether it is FedAvg.loss, which reads algorithm.label_smoothing itself."""

    def hook(self, algorithm: Algorithm) -> Mean | None:
        """The function that has to be called as it is: the algorithm's own or the user's; None where it is fedray's."""
        return algorithm.loss if algorithm.has_own_loss else self.function

    def mean(self, algorithm: Algorithm) -> Mean:
        """The loss that clients of an algorithm minimise."""
        if algorithm.has_own_loss or self.is_plain:
            return algorithm.loss
        return self.function or (lambda output, targets: self.weighed(output, targets, algorithm).mean())

    def weighed(self, output: torch.Tensor, targets: torch.Tensor, algorithm: Algorithm) -> torch.Tensor:
        """The loss of each example [n], with the weights of classes and the algorithm's label smoothing."""
        if self.name == "cross_entropy":
            each = F.cross_entropy(output, targets, reduction="none", label_smoothing=algorithm.label_smoothing)
            return each if self.weights is None else each * self.weights[targets]
        if self.name == "bce":
            by_label = F.binary_cross_entropy_with_logits(output, targets, reduction="none", pos_weight=self.weights)
            return by_label.mean(1)
        return self.of_values(output, targets)

    def of_values(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.name == "huber":
            return F.huber_loss(output, targets, reduction="none", delta=self.delta).mean(1)
        return F.mse_loss(output, targets, reduction="none").mean(1)

    def each(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each example in an evaluation [n]: without weights and smoothing, which are for training.

        An own loss gives the mean of the batch, which then counts for each of its examples.
        """
        if self.function:
            return self.function(output, targets).detach().expand(len(targets))
        if self.name == "cross_entropy":
            return F.cross_entropy(output, targets, reduction="none")
        if self.name == "bce":
            return F.binary_cross_entropy_with_logits(output, targets, reduction="none").mean(1)
        return self.of_values(output, targets)

    @property
    def constants(self) -> list[torch.Tensor]:
        """The tensors that a CUDA graph reads."""
        return [] if self.weights is None else [self.weights]


def each_loss(recipe: Recipe, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each example in an evaluation, float32 [n], as Objective.each gives it."""
    return Objective(recipe, str(output.device)).each(output, targets)


def find(address: str, wanted: str = "") -> Mean:
    """The user's function at its address; BadInputError where there is none. `wanted` is as in own_code.load."""
    (module, _, name), found = address.partition(":"), own_code.load(address, "loss.name", wanted)
    function: Any = getattr(found, name, None)
    if not callable(function):
        near = nearest(name, [key for key, value in vars(found).items() if callable(value)])
        raise BadInputError(f"loss.name = {address}: {module} has no function {name}{near}")
    return function


def try_out(name: str, wanted: str, kind: Kind, outputs: int, for_many: bool) -> None:
    """Try the user's own loss on a few examples; BadInputError where it cannot be minimised.

    With `for_many` it is called as engine = fused does it, for two clients at once.
    """
    function, said = find(name, wanted), f"loss.name = {name}"
    given = torch.rand((2, EXAMPLES, outputs), generator=torch.Generator().manual_seed(0)) - 0.5
    targets = {
        "classes": torch.arange(2 * EXAMPLES).view(2, EXAMPLES) % outputs,
        "labels": (given > 0).float(),
        "values": 1 - given,
    }[kind.targets]
    shapes = f"an output {[EXAMPLES, outputs]} and targets {list(targets[0].shape)}"
    try:
        output = given[0].clone().requires_grad_()
        with warnings.catch_warnings(action="ignore"):  # of what the sentences below say better
            loss = function(output, targets[0])
        if not isinstance(loss, torch.Tensor) or loss.dim():
            found = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise BadInputError(f"{said} gives {found} for {shapes}, not one number, the mean")
        if not loss.isfinite():
            raise BadInputError(f"{said} gives {loss.item()} for {shapes}")
        if not loss.requires_grad:
            raise BadInputError(f"{said} gives a loss without a gradient: it does not depend on the output by torch")
        (slope,) = torch.autograd.grad(loss, output, allow_unused=True)
    except BadInputError:
        raise
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{said} fails for {shapes} ({own_code.describe(error)})") from error
    if slope is None or not slope.isfinite().all():
        raise BadInputError(f"{said} has a gradient that is not finite for {shapes}")
    if not slope.any():
        raise BadInputError(f"{said} has the gradient 0 for {shapes}, by which nothing would be trained")
    if for_many:
        try:
            torch.func.vmap(function)(given.requires_grad_(), targets).sum().backward()
        except (Exception, SystemExit) as error:
            raise BadInputError(
                f"{said} fails for many clients at a time ({own_code.describe(error)}), as engine = fused calls it; "
                "set engine = plain"
            ) from error
