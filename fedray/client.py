"""Local training of one client: the SGD loop, once.

The engine owns the loop; an algorithm fills its hooks (`loss`, `correct`, `finish`). Everything random has an address
(seed, round, client), so the same client in the same round gives the same bits in whatever process it runs.
"""

import ctypes
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedray.data.augment import crop_flip, normalise
from fedray.errors import ClientError
from fedray.fused import train_together
from fedray.networks import build
from fedray.randomness import generator, torch_seed
from fedray.recipe import EVALUATION_BATCH, Recipe
from fedray.updates import Report, Sum, Trained, Vectors, num_bytes
from fedray.vector import FlatModel


def settle_in() -> None:
    """Make this process fit for training: one thread, and memory that is freed is kept for the next tensor.

    Otherwise glibc gives each tensor of some megabytes back to the kernel, and clearing its pages anew takes a tenth of
    a step's time, almost half of an evaluation's.
    """
    torch.set_num_threads(1)
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library may not have it
            libc = ctypes.CDLL(None)
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)
            libc.mallopt(M_MMAP_THRESHOLD, 2**30)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Trainer:
    """A model bound to flat vectors that trains one client after another, and evaluates."""

    def __init__(self, recipe: Recipe, device: str = "cpu"):
        self.recipe, self.device = recipe, device
        self.flat = FlatModel(build(recipe.model, recipe.shape, recipe.classes, recipe.seed), device)

    def train(
        self,
        algorithm: Any,
        client: int,
        images: np.ndarray,
        labels: np.ndarray,
        message: Vectors,
        memory: Vectors,
        t: int,
        lr: float,
    ) -> tuple[Vectors, Vectors, Report]:
        """One client's round t from the message: its update, its new memory and its report.

        `images` is uint8 [n, c, h, w], `labels` int64 [n]; nothing given is changed.
        """
        began = time.perf_counter()
        flat = self.flat
        received, remembered = self.tensors(message), self.tensors(memory)
        start = received["params"]
        flat.load(start, received["buffers"])
        if not remembered:
            remembered = algorithm.init_memory(start)
        velocity, losses, seen, steps = None, torch.zeros((), dtype=torch.float64, device=self.device), 0, 0
        flat.module.train()
        # Where nothing corrects the gradient, a step needs no flat copy of it: a twentieth of the CNN's time.
        plainly = not (algorithm.corrects or algorithm.weight_decay or algorithm.momentum)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.recipe.seed, "dropout", t=t, client=client))
            for inputs, targets in self.batches(algorithm, client, images, labels, t):
                loss = algorithm.loss(self.output(inputs), targets)
                losses += loss.detach().double() * len(targets)
                seen, steps = seen + len(targets), steps + 1
                if plainly:
                    flat.descend(loss, lr)
                    continue
                grad = flat.gradient(loss)
                with torch.no_grad():
                    direction = algorithm.correct(grad, flat.params, received, remembered, lr)
                    if algorithm.weight_decay:
                        direction = direction.add(flat.params, alpha=algorithm.weight_decay)
                    if algorithm.momentum:
                        velocity = (
                            direction.clone() if velocity is None else velocity.mul_(algorithm.momentum).add_(direction)
                        )
                        direction = velocity
                    flat.params.add_(direction, alpha=-lr)
        with torch.no_grad():
            update, remembered = algorithm.finish(start, flat.params, steps, lr, received, remembered)
            update = {**update, "buffers": flat.buffers - received["buffers"]}
            norm = float(torch.linalg.vector_norm(update["params"]))
        vectors = self.arrays(update)
        if vectors["params"].shape != message["params"].shape:
            raise ValueError(
                f'finish() gave an update "params" of shape {vectors["params"].shape}, not {message["params"].shape}'
            )
        report = Report(
            client=client,
            num_examples=len(labels),
            steps=steps,
            train_loss=float(losses) / seen,
            update_norm=norm,
            seconds=time.perf_counter() - began,
            num_bytes=num_bytes(vectors),
        )
        return vectors, self.arrays(remembered), report

    def batches(
        self, algorithm: Any, client: int, images: np.ndarray, labels: np.ndarray, t: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The round's batches, normalised: reshuffled and augmented anew each epoch."""
        seed, n = self.recipe.seed, len(labels)
        size = algorithm.batch_size or n
        ends = n - n % size if algorithm.drop_last else n
        remaining = algorithm.steps or algorithm.epochs * -(-ends // size)
        epoch = 0
        while remaining:
            order = generator(seed, "shuffle", t=t, client=client, epoch=epoch).permutation(n)
            pixels, targets = torch.from_numpy(images[order]), torch.from_numpy(labels[order])
            if self.recipe.augment == "crop-flip":
                pixels = crop_flip(pixels, generator(seed, "augment", t=t, client=client, epoch=epoch))
            for first in list(range(0, ends, size))[:remaining]:
                batch = slice(first, min(first + size, ends))
                yield self.inputs(pixels[batch]), targets[batch].to(self.device)
                remaining -= 1
            epoch += 1

    def evaluate(self, message: Vectors, images: np.ndarray, labels: np.ndarray) -> list[tuple[float, int]]:
        """The sum of the cross-entropies and the number of right answers, for each batch of EVALUATION_BATCH images."""
        results = []
        with blamed_on("evaluation failed"), torch.inference_mode():
            received = self.tensors(message)
            self.flat.load(received["params"], received["buffers"])
            self.flat.module.eval()
            for first in range(0, len(labels), EVALUATION_BATCH):
                batch = slice(first, first + EVALUATION_BATCH)
                output = self.output(self.inputs(torch.from_numpy(images[batch])))
                targets = torch.from_numpy(labels[batch]).to(self.device)
                loss = F.cross_entropy(output, targets, reduction="none").double().sum()
                results.append((float(loss), int((output.argmax(1) == targets).sum())))
        return results

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 images as the model's normalised float32 input, on the device."""
        inputs = normalise(pixels.to(self.device), self.recipe.mean, self.recipe.std)
        return inputs.contiguous(memory_format=torch.channels_last) if self.recipe.model.channels_last else inputs

    def output(self, inputs: torch.Tensor) -> torch.Tensor:
        """The model's float32 output [batch, classes]."""
        if self.recipe.model.precision == "float32":
            return self.flat.module(inputs)
        with torch.autocast(self.device, torch.bfloat16):
            return self.flat.module(inputs).float()

    def tensors(self, vectors: Vectors) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(vector).to(self.device) for name, vector in vectors.items()}

    def arrays(self, tensors: dict[str, torch.Tensor]) -> Vectors:
        """As NumPy arrays that share no memory with the model, which the next client overwrites."""
        flat = (self.flat.params, self.flat.grads, self.flat.buffers)
        mine = {vector.untyped_storage().data_ptr() for vector in flat}
        return {
            name: (tensor.clone() if tensor.untyped_storage().data_ptr() in mine else tensor).cpu().numpy()
            for name, tensor in tensors.items()
        }


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Whatever the client's code raises comes out as a ClientError: what failed, and the traceback."""
    try:
        yield
    except Exception as error:
        raise ClientError(f"{what}:\n{traceback.format_exc()}") from error


def train_block(
    trainer: Trainer,
    algorithm: Any,
    clients: Sequence[int],
    shard: Callable[[int], tuple[np.ndarray, np.ndarray]],
    message: Vectors,
    memories: Sequence[Vectors],
    t: int,
    lr: float,
    summed: bool,
) -> tuple[Trained, list[Vectors]]:
    """Train a block's clients: their updates, summed or each, and their new memories.

    `shard` gives a client's images and labels. Whatever a client's code raises comes out as a ClientError.
    """

    def one_by_one() -> Iterator[tuple[Vectors, Vectors, Report]]:
        for client, memory in zip(clients, memories, strict=True):
            with blamed_on(f"client {client} failed in round {t}"):
                trained = trainer.train(algorithm, client, *shard(client), message, memory, t, lr)
            yield trained

    def together() -> Iterator[tuple[Vectors, Vectors, Report]]:
        named = ", ".join(map(str, clients))
        blamed = f"client {named}" if len(clients) == 1 else f"one of the clients {named}, which train as one program,"
        model = (trainer.recipe, trainer.flat.layout, trainer.device)
        with blamed_on(f"{blamed} failed in round {t}"):
            yield from train_together(*model, algorithm, clients, map(shard, clients), message, memories, t, lr)

    total, each, reports, remembered = Sum(), [], [], []
    for vectors, memory, report in together() if trainer.recipe.engine == "fused" else one_by_one():
        reports.append(report)
        remembered.append(memory)
        if summed:
            total.add_update(vectors, algorithm.weight(report.num_examples))
        else:
            each.append(vectors)
    return Trained(reports, sum=total if summed else None, each=each), remembered
