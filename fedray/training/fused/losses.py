"""The losses of many clients' batches, and their gradients with respect to the models' outputs."""

import numpy as np
import torch
import torch.nn.functional as F

from fedray.core.algorithm import Algorithm
from fedray.training.fused.batches import Batch
from fedray.training.objective import Mean, Objective


def losses_and_slopes(
    objective: Objective, algorithm: Algorithm, output: torch.Tensor, batch: Batch, classes: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each client's loss [A] of the output [A, B, classes], and its gradient, shaped like the output.

    `classes` is the dimension of the classes, or of what else the outputs are. With 1 the output is [A, classes, B].
    """
    if hook := objective.hook(algorithm):
        loss, slope = loss_of_hook(hook, output.movedim(classes, 2), batch.targets, batch.sizes)
        return loss, slope.movedim(2, classes)
    if objective.name == "cross_entropy":
        weights = batch.weights if objective.weights is None else batch.weights * objective.weights[batch.targets]
        return cross_entropy(output, batch.targets, weights, algorithm.label_smoothing, classes)
    targets, weights = batch.targets.movedim(2, classes), batch.weights.unsqueeze(classes) / output.shape[classes]
    loss, slope = FORMULAS[objective.name](objective, output, targets, classes)
    return loss.mul_(weights).sum((1, 2)), slope.mul_(weights)


def bce(objective: Objective, x: torch.Tensor, y: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(1 - y) x + (1 + (p - 1) y) log(1 + exp(-x)) of each output, with the weight p of a label's positives; and its
    slope 1 - y - (1 + (p - 1) y) sigmoid(-x)."""
    if objective.weights is None:
        return F.binary_cross_entropy_with_logits(x, y, reduction="none"), x.sigmoid().sub_(y)
    p = objective.weights.unsqueeze(1) if classes == 1 else objective.weights
    negative, positive = 1 - y, 1 + (p - 1) * y
    return negative * x - positive * F.logsigmoid(x), negative - positive * (-x).sigmoid()


def mse(_: Objective, x: torch.Tensor, y: torch.Tensor, __: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(x - y)^2 of each output, and its slope 2 (x - y)."""
    error = x - y
    return error.square(), error.mul_(2)


def huber(objective: Objective, x: torch.Tensor, y: torch.Tensor, _: int) -> tuple[torch.Tensor, torch.Tensor]:
    """e^2 / 2 of each error e = x - y up to delta, and delta (|e| - delta / 2) above; and its slope, e within delta."""
    delta = objective.delta
    return F.huber_loss(x, y, reduction="none", delta=delta), (x - y).clamp_(-delta, delta)


FORMULAS = {"bce": bce, "mse": mse, "huber": huber}
"""The loss of each output, and its slope, shaped like the output."""


def cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """FedAvg.loss of each client [A], and its gradient: the softmax minus the one-hot targets.

    `smoothing` is the share of the targets that is spread evenly over the classes. An example's weight [A, B] is one
    over the size of its batch, times its class's weight if there are any, or 0 for padding.
    """
    targets, weights = targets.unsqueeze(classes), weights.unsqueeze(classes)
    logs = output.log_softmax(classes)
    likelihood = logs.gather(classes, targets)
    if smoothing:
        likelihood = (1 - smoothing) * likelihood + smoothing * logs.mean(classes, keepdim=True)
    loss = likelihood.mul_(weights).sum((1, 2)).neg_()
    slope = add_at(logs.exp_().mul_(weights), targets, (smoothing - 1) * weights, classes, output.is_cuda)
    return loss, slope.sub_(smoothing / output.shape[classes] * weights) if smoothing else slope


def add_at(
    slope: torch.Tensor, targets: torch.Tensor, values: torch.Tensor, classes: int, compare: bool
) -> torch.Tensor:
    """Add `values` to the slope at the targets' classes.

    On a CPU scatter_add_ takes half the time of comparing every class. On a GPU torch does not call it deterministic.
    """
    if not compare:
        return slope.scatter_add_(classes, targets, values)
    labels = torch.arange(slope.shape[classes], device=slope.device)
    return slope.add_((labels.unsqueeze(-1) if classes == 1 else labels).eq(targets) * values)


def loss_of_hook(
    hook: Mean, output: torch.Tensor, targets: torch.Tensor, sizes: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """An algorithm's or a user's own loss of each client [A], and its gradient [A, B, classes].

    The hook sees no padding. It is called for all batches of one size at once, and sees each of them alone.
    """
    loss, slope = output.new_zeros(len(output)), torch.zeros_like(output)
    for size in np.unique(sizes[sizes > 0]).tolist():
        these = torch.from_numpy(np.flatnonzero(sizes == size)).to(output.device)
        with torch.enable_grad():
            outputs = output.detach()[these, :size].requires_grad_()
            each = torch.func.vmap(hook)(outputs, targets[these, :size])
            slope[these, :size] = torch.autograd.grad(each.sum(), outputs)[0]
        loss[these] = each.detach()
    return loss, slope
