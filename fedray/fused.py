"""Local training of many clients as one batched program: the loop of client.py for stacks of Linear and ReLU.

A small model spends its time on the overhead of operations, so clients lie along a leading dimension: params are
[C, P], a layer of them all is one batched product, and its gradient is written out. The gradients of 25 clients of
logistic regression (784 features, batches of 10, one thread) take 0.18 ms so, 0.65 with autograd through the same
products, 0.95 with torch.func.vmap of the module, and 1.7 client by client.

A client's bits do not depend on whom it is trained with, or whether alone: its batches are padded by its own shard's
size, never by its neighbours', and the batched operations compute each client's rows as if there were no others. They
differ from client.py's by rounding.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from fedray.data.augment import crop_flip_as_drawn, cutout, draw_crop_flip, draw_cutout, normalise
from fedray.randomness import Generators
from fedray.recipe import Recipe
from fedray.transfer import Examples
from fedray.updates import Report, Vectors, num_bytes
from fedray.vector import Array, Layout, Tensors

Layers = list[tuple[torch.Tensor, torch.Tensor]]  # the weights [C, out, in] and biases [C, out] of each Linear
Results = dict[int, tuple[Vectors, Vectors, float, float]]  # by place: update, memory, mean loss, norm of the update

PARAMS_AT_ONCE = 16 << 20  # bytes; beyond that clients push one another's params out of the cache
SHARDS_AT_ONCE = 64 << 20  # bytes


@dataclass(frozen=True)
class Share:
    """A client's part of a block, and how an epoch of it is cut: `used` examples into batches of `size`."""

    place: int
    client: int
    images: Array
    labels: Array
    memory: Vectors
    size: int
    used: int
    per_epoch: int
    steps: int
    width: int
    """What its batches are padded to. A shard below the batch size takes the next multiple of 8, so that few differ."""


def train_together(
    recipe: Recipe,
    layout: Layout,
    device: str,
    initial: Tensors | None,
    algorithm: Any,
    clients: Sequence[int],
    shards: Iterable[Examples],
    message: Vectors,
    memories: Sequence[Vectors],
    t: int,
    lr: float,
) -> Iterator[tuple[Vectors, Vectors, Report]]:
    """Each client's update, new memory and report, in the order of `clients`; what Trainer.train gives for one.

    `initial` is the model that memories begin with. Clients that were trained together share the time it took in
    proportion to their steps.
    """
    shares = (
        cut(algorithm, recipe.seed, t, place, client, *shard, memory)
        for place, (client, shard, memory) in enumerate(zip(clients, shards, memories, strict=True))
    )
    for portion in portions(shares, 4 * layout.size):
        began = time.perf_counter()
        results: Results = {}
        for _, group in groupby(sorted(portion, key=lambda s: (s.width, -s.steps)), key=attrgetter("width")):
            results |= train_group(recipe, layout, device, initial, algorithm, list(group), message, t, lr)
        seconds_a_step = (time.perf_counter() - began) / sum(share.steps for share in portion)
        for share in portion:
            update, memory, train_loss, update_norm = results[share.place]
            report = Report(
                client=share.client,
                num_examples=len(share.labels),
                steps=share.steps,
                train_loss=train_loss,
                update_norm=update_norm,
                seconds=seconds_a_step * share.steps,
                bytes_down=num_bytes(message),
                bytes_up=num_bytes(update),
            )
            yield update, memory, report


def cut(
    algorithm: Any, seed: int, t: int, place: int, client: int, images: Array, labels: Array, memory: Vectors
) -> Share:
    """A client's Share: batches, epochs and steps as Trainer.batches makes them."""
    n = len(labels)
    wanted = algorithm.batch_size or n
    size = min(wanted, n)
    used = n - n % wanted if algorithm.drop_last else n
    per_epoch = -(-used // size)
    steps = algorithm.local_steps(seed, t, client, per_epoch)
    width = size if size == algorithm.batch_size else -(-size // 8) * 8
    return Share(place, client, images, labels, memory, size, used, per_epoch, steps, width)


def portions(shares: Iterable[Share], param_bytes: int) -> Iterator[list[Share]]:
    """As many consecutive shares at a time as there should be in memory, and at least one."""
    portion: list[Share] = []
    held = 0
    for share in shares:
        held += share.images.nbytes
        if portion and (held > SHARDS_AT_ONCE or (len(portion) + 1) * param_bytes > PARAMS_AT_ONCE):
            yield portion
            portion, held = [], share.images.nbytes
        portion.append(share)
    if portion:
        yield portion


@torch.no_grad()
def train_group(
    recipe: Recipe,
    layout: Layout,
    device: str,
    initial: Tensors | None,
    algorithm: Any,
    shares: list[Share],
    message: Vectors,
    t: int,
    lr: float,
) -> Results:
    """Train C clients of one width, those with the most steps first."""
    count = len(shares)
    received = {name: torch.from_numpy(vector).to(device) for name, vector in message.items()}
    start = received["params"].expand(count, -1)
    remembered = stack_memories(algorithm, shares, initial, device)
    batches = Batches(recipe, shares, t, device)
    end, losses = descend(layout, algorithm, batches, received, remembered, lr)
    steps = torch.from_numpy(np.array([[share.steps] for share in shares], np.float32)).to(device)
    update, remembered = algorithm.finish(start, end, steps, lr, received, remembered)
    if update["params"].shape != end.shape:
        found, wanted = tuple(update["params"].shape), tuple(end.shape)
        raise ValueError(f'finish() gave updates "params" of shape {found}, not {wanted}')
    norms = update["params"].square().sum(1).sqrt().tolist()
    # cumsum adds step after step; sum would take another order for one client than for many.
    means = ((losses.cpu().numpy() * batches.sizes).cumsum(0)[-1] / batches.sizes.sum(0)).tolist()
    updates = rows_of({**update, "buffers": received["buffers"].new_zeros(0)}, count)
    memories = rows_of(remembered, count)
    results: Results = {}
    for i, share in enumerate(shares):
        vectors = {name: rows[i] for name, rows in updates.items()}
        memory = {name: rows[i].copy() for name, rows in memories.items()}  # kept for long, so apart from the others'
        results[share.place] = vectors, memory, means[i], norms[i]
    return results


def descend(
    layout: Layout, algorithm: Any, batches: "Batches", received: Tensors, remembered: Tensors, lr: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The SGD loop: all params [C, P] after their last step, and the mean losses [S, C] of the batches.

    Who has steps left are always the first few, so that the others' params rest.
    """
    steps, count = batches.sizes.shape
    params = received["params"].expand(count, -1).clone(memory_format=torch.contiguous_format)
    grads, velocity = torch.empty_like(params), torch.empty_like(params)
    losses = torch.zeros(steps, count, device=params.device)
    before = 0
    for step, active in enumerate((batches.sizes > 0).sum(1).tolist()):
        if active != before:
            before = active
            now, grad, speed = params[:active], grads[:active], velocity[:active]
            layers, slopes = pair(layout.views(now)), pair(layout.views(grad))
            memory = {name: tensor[:active] for name, tensor in remembered.items()}
        losses[step, :active] = differentiate(algorithm, layers, slopes, batches, step, active)
        algorithm.clip(grad)
        direction = algorithm.correct(grad, now, received, memory, lr)
        if algorithm.weight_decay:
            direction = direction.add(now, alpha=algorithm.weight_decay)
        if algorithm.momentum:
            direction = speed.mul_(algorithm.momentum).add_(direction) if step else speed.copy_(direction)
        now.add_(direction, alpha=-lr)
    return params, losses


def differentiate(
    algorithm: Any, layers: Layers, slopes: Layers, batches: "Batches", step: int, active: int
) -> torch.Tensor:
    """The losses [active] of a step; their gradients with respect to `layers` are written into `slopes`."""
    inputs, output = forward(layers, batches.inputs(step, active))
    targets = batches.targets[step, :active]
    if algorithm.has_own_loss:
        loss, slope = loss_of_hook(algorithm, output.transpose(1, 2), targets, batches.sizes[step, :active])
        slope = slope.transpose(1, 2)
    else:
        weights = batches.weights[step, :active]
        loss, slope = cross_entropy(output, targets, weights, algorithm.label_smoothing)
    backward(layers, slopes, inputs, slope)
    return loss


class Batches:
    """All batches of C clients, S steps of B rows. Where a batch has fewer examples, or a client fewer steps, the other
    rows are the first image of its own shard, and weigh nothing."""

    def __init__(self, recipe: Recipe, shares: list[Share], t: int, device: str):
        self.recipe = recipe
        lengths = np.array([len(share.labels) for share in shares])
        firsts = lengths.cumsum() - lengths
        rows = draw_epochs(shares, recipe.seed, "shuffle", t, lambda rng, share: rng.permutation(len(share.labels)))
        rows += firsts[:, None]
        self.crops = self.holes = None
        if "crop-flip" in recipe.augment:
            crops = draw_epochs(
                shares, recipe.seed, "augment", t, lambda rng, share: draw_crop_flip(rng, len(share.labels))
            )
            self.crops = torch.from_numpy(crops).to(device)
        if "cutout" in recipe.augment:
            holes = draw_epochs(
                shares, recipe.seed, "cutout", t, lambda rng, share: draw_cutout(rng, share.images.shape)
            )
            self.holes = torch.from_numpy(holes).to(device)
        self.sizes = batch_sizes(shares)
        weights = (np.arange(shares[0].width) < self.sizes[:, :, None]) / np.maximum(self.sizes, 1)[:, :, None]
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.rows = torch.from_numpy(rows).to(device)
        self.targets = join([share.labels for share in shares], device)[self.rows]
        self.images = join([share.images for share in shares], device)

    def inputs(self, step: int, active: int) -> torch.Tensor:
        """A step's images for the first clients, normalised and flat [active, features, B]."""
        images = self.images.index_select(0, self.rows[step, :active].flatten())
        if self.crops is not None:
            images = crop_flip_as_drawn(images, self.crops[step, :active].ravel())
        if self.holes is not None:
            images = cutout(images, self.holes[step, :active].ravel(), self.recipe.cutout, self.recipe.mean)
        return normalise(images, self.recipe.mean, self.recipe.std).view(active, self.rows.shape[2], -1).transpose(1, 2)


def join(parts: list[Array], device: str) -> torch.Tensor:
    """Arrays of the host, or tensors of the device, one after another on the device."""
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return torch.cat(tensors) if tensors else torch.from_numpy(np.concatenate(parts)).to(device)


def draw_epochs(
    shares: list[Share], seed: int, purpose: str, t: int, draw: Callable[[np.random.Generator, Share], np.ndarray]
) -> np.ndarray:
    """What is drawn for each example in each epoch of each client, in its place in the batches [S, C, B]; else 0."""
    batches = np.zeros((shares[0].steps, len(shares), shares[0].width), np.int64)
    generators = Generators(seed, purpose, t)
    for i, share in enumerate(shares):
        for epoch, steps in share_epochs(share):
            deal(batches[steps, i], draw(generators.at(share.client, epoch), share), share)
    return batches


def share_epochs(share: Share) -> Iterator[tuple[int, slice]]:
    """Each epoch of a client, and which of its steps that is; the last may be broken off."""
    for epoch, first in enumerate(range(0, share.steps, share.per_epoch)):
        yield epoch, slice(first, min(first + share.per_epoch, share.steps))


def deal(batches: np.ndarray, epoch: np.ndarray, share: Share) -> None:
    """Write a client's epoch [n] into its batches [at most per_epoch, B]; padding stays as it is."""
    full = min(share.used // share.size, len(batches))
    batches[:full, : share.size] = epoch[: full * share.size].reshape(full, share.size)
    if full < len(batches):
        batches[full, : share.used - full * share.size] = epoch[full * share.size : share.used]


def batch_sizes(shares: list[Share]) -> np.ndarray:
    """The number of examples in each step's batch of each client [S, C]; 0 after a client's last step."""
    size, used, per_epoch, steps = np.array([(s.size, s.used, s.per_epoch, s.steps) for s in shares]).T
    step = np.arange(steps[0])[:, None]
    return np.where(step < steps, np.minimum(size, used - step % per_epoch * size), 0)


def pair(views: Tensors) -> Layers:
    """A stack's tensors by layer: the weight and the bias of one Linear after the other."""
    tensors = list(views.values())
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def forward(layers: Layers, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The input [C, in, B] of each layer, and the output [C, out, B] of the last; an example is a column."""
    inputs: list[torch.Tensor] = []
    for weight, bias in layers:
        inputs.append(x.relu_() if inputs else x)
        x = torch.baddbmm(bias.unsqueeze(2), weight, x)
    return inputs, x


def backward(layers: Layers, slopes: Layers, inputs: list[torch.Tensor], slope: torch.Tensor) -> None:
    """Write the gradient with respect to `layers` into `slopes`, given the one with respect to the output."""
    for i in reversed(range(len(layers))):
        torch.bmm(slope, inputs[i].transpose(1, 2), out=slopes[i][0])
        torch.sum(slope, 2, out=slopes[i][1])
        if i:
            slope = torch.bmm(layers[i][0].transpose(1, 2), slope).mul_(inputs[i] > 0)


def cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """FedAvg.loss of each client [C], and its gradient [C, classes, B]: the softmax minus the one-hot targets, of which
    `smoothing` spreads a share evenly over the classes.

    An example's weight [C, B] is one over the size of its batch, and 0 for padding.
    """
    targets, weights = targets.unsqueeze(1), weights.unsqueeze(1)
    logs = output.log_softmax(1)
    likelihood = logs.gather(1, targets)
    if smoothing:
        likelihood = (1 - smoothing) * likelihood + smoothing * logs.mean(1, keepdim=True)
    loss = likelihood.mul_(weights).sum((1, 2)).neg_()
    slope = logs.exp_().mul_(weights).scatter_add_(1, targets, (smoothing - 1) * weights)
    return loss, slope.sub_(smoothing / output.shape[1] * weights) if smoothing else slope


def loss_of_hook(
    algorithm: Any, output: torch.Tensor, targets: torch.Tensor, sizes: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """An algorithm's own loss of each client [C], and its gradient [C, B, classes].

    The hook sees no padding: it is called for the batches of one size at a time, as if for each alone.
    """
    loss, slope = output.new_empty(len(output)), torch.zeros_like(output)
    for size in np.unique(sizes).tolist():
        these = torch.from_numpy(np.flatnonzero(sizes == size)).to(output.device)
        with torch.enable_grad():
            outputs = output[these, :size].requires_grad_()
            each = torch.func.vmap(algorithm.loss)(outputs, targets[these, :size])
            slope[these, :size] = torch.autograd.grad(each.sum(), outputs)[0]
        loss[these] = each.detach()
    return loss, slope


def stack_memories(algorithm: Any, shares: list[Share], initial: Tensors | None, device: str) -> Tensors:
    """The clients' memories as tensors [C, ...], new for those that have none."""
    if initial is None:
        return {}
    blank: Vectors = {}
    if not all(share.memory for share in shares):
        blank = {name: tensor.cpu().numpy() for name, tensor in algorithm.init_memory(**initial).items()}
    memories = [share.memory or blank for share in shares]
    return {name: torch.from_numpy(np.stack([memory[name] for memory in memories])).to(device) for name in memories[0]}


def rows_of(tensors: Tensors, count: int) -> Vectors:
    """As arrays of `count` rows; what is the same for all clients is repeated."""
    return {name: tensor.expand(count, -1).cpu().numpy() for name, tensor in tensors.items()}
