"""The model of a process, which trains and evaluates one client after another, and blocks of them."""

import ctypes
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedray.client import Client, epoch_steps
from fedray.data.augment import crop_flip, cutout, draw_cutout, normalise
from fedray.errors import BadInputError, ClientError
from fedray.fused import Together
from fedray.networks import build, names_of
from fedray.networks.dropout import dropout_layers
from fedray.own_part import OwnPart
from fedray.performance import Measured
from fedray.randomness import generator, torch_seed
from fedray.recipe import EVALUATION_BATCH, Recipe
from fedray.updates import Report, Scores, Sum, Trained, Vectors, finite, num_bytes
from fedray.vector import FlatModel, Tensors


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
FINE_TUNING = 2**32  # the first epoch of training that is part of an evaluation, which no round comes to


class Trainer:
    """A model bound to flat vectors that trains one client after another, and evaluates."""

    def __init__(self, recipe: Recipe, device: str = "cpu"):
        self.recipe, self.device = recipe, device
        self.flat = self.build()
        self.dropouts = list(dropout_layers(self.flat.module).values())
        self.rivals: dict[str, FlatModel] = {}
        self.own_parts: dict[Any, OwnPart] = {}
        self.together = Together(recipe, self.flat, device)

    def build(self) -> FlatModel:
        """The recipe's model at its initial parameters."""
        r = self.recipe
        return FlatModel(build(r.model, r.shape, r.classes, r.seed, r.fingerprint), self.device)

    @cached_property
    def initial(self) -> Tensors:
        """The model that every run of this recipe starts from."""
        flat = self.build()
        return {"params": flat.params, "buffers": flat.buffers}

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
        received, remembered, own = self.receive(algorithm, message, memory)
        here = Client(self, algorithm, client, images, labels, received, remembered, t, lr)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.recipe.seed, "dropout", t=t, client=client))
            update, remembered = algorithm.local_round(here, received, remembered, lr)
        if own:
            update, kept = own.split(received, update)
            remembered = {**remembered, **kept}
        vectors, new_memory = self.arrays(update), self.arrays(remembered)
        if vectors["params"].shape != message["params"].shape:
            raise ValueError(
                f'finish() gave an update "params" of shape {vectors["params"].shape}, not {message["params"].shape}'
            )
        unsent = own.num_bytes if own else 0
        report = Report(
            client=client,
            num_examples=len(labels),
            steps=here.steps,
            train_loss=here.train_loss,
            update_norm=float(torch.linalg.vector_norm(update["params"])),
            seconds=time.perf_counter() - began,
            bytes_down=num_bytes(message) - unsent,
            bytes_up=num_bytes(vectors) - unsent,
            images=here.seen,
        )
        return vectors, new_memory, report

    def receive(self, algorithm: Any, message: Vectors, memory: Vectors) -> tuple[Tensors, Tensors, OwnPart | None]:
        """A message and a memory as tensors: the client's own part in place, and the memory made, if it has none."""
        received, remembered = self.tensors(message), self.tensors(memory)
        own = self.own_part(algorithm)
        if algorithm.remembers and not remembered:
            remembered = algorithm.init_memory(self.initial["params"], self.initial["buffers"])
            remembered = {**remembered, **(own.of(self.initial) if own else {})}
        return own.join(received, remembered) if own else received, remembered, own

    def own_part(self, algorithm: Any) -> OwnPart | None:
        """Where the part of the model lies that stays at the clients; None where there is none."""
        if not algorithm.personalises:
            return None
        if algorithm not in self.own_parts:
            names, norms = names_of(self.flat)
            self.own_parts[algorithm] = OwnPart(self.flat, set(algorithm.personal(names, norms)))
        return self.own_parts[algorithm]

    def references(self, models: dict[str, Tensors]) -> dict[str, nn.Module]:
        """Modules in evaluation mode with the given parameters and buffers."""
        for name, model in models.items():
            if name not in self.rivals:
                self.rivals[name] = self.build()
                self.rivals[name].module.eval()
                self.share_frozen(self.rivals[name].module)
            self.rivals[name].load(model["params"], model["buffers"])
        return {name: self.rivals[name].module for name in models}

    def share_frozen(self, other: nn.Module) -> None:
        """Give up another model's frozen parameters for this one's, which are the same."""
        for mine, theirs in zip(self.flat.module.parameters(), other.parameters(), strict=True):
            if not mine.requires_grad:
                theirs.data = mine.data

    def batches(
        self,
        algorithm: Any,
        client: int,
        images: np.ndarray,
        labels: np.ndarray,
        t: int,
        first_epoch: int = 0,
        steps: int | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The round's batches, normalised, reshuffled and augmented anew each epoch; `steps` of them, if given."""
        seed, n = self.recipe.seed, len(labels)
        size = algorithm.batch_size or n
        ends = n - n % size if algorithm.drop_last else n
        remaining = steps or algorithm.local_steps(seed, t, client, epoch_steps(algorithm, n))
        epoch = first_epoch
        while remaining:
            order = generator(seed, "shuffle", t=t, client=client, epoch=epoch).permutation(n)
            pixels, targets = torch.from_numpy(images[order]), torch.from_numpy(labels[order])
            if "crop-flip" in self.recipe.augment:
                pixels = crop_flip(pixels, generator(seed, "augment", t=t, client=client, epoch=epoch))
            if "cutout" in self.recipe.augment:
                drawn = draw_cutout(generator(seed, "cutout", t=t, client=client, epoch=epoch), pixels.shape)
                pixels = cutout(pixels, drawn, self.recipe.cutout, self.recipe.mean)
            for first in list(range(0, ends, size))[:remaining]:
                batch = slice(first, min(first + size, ends))
                yield self.inputs(pixels[batch]), targets[batch].to(self.device)
                remaining -= 1
            epoch += 1

    def evaluate(self, message: Vectors, images: np.ndarray, labels: np.ndarray, top_k: int | None = None) -> Measured:
        """What the message's model gives for these images, in batches of EVALUATION_BATCH."""
        with blamed_on("evaluation failed"):
            return self.measure(self.tensors(message), images, labels, top_k)

    def evaluate_client(
        self,
        algorithm: Any,
        client: int,
        shard: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        message: Vectors,
        memory: Vectors,
        t: int,
        lr: float,
    ) -> Scores:
        """How the model that a client would use does on images and labels of its own.

        `message` is the broadcast of the state after round t.
        """
        received, remembered, _ = self.receive(algorithm, message, memory)
        here = Client(self, algorithm, client, *shard, received, remembered, t, lr, first_epoch=FINE_TUNING)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.recipe.seed, "fine-tune", t=t, client=client))
            model = algorithm.own_model(here, received, remembered, lr)
        found, count = self.measure(model, *test), len(test[1])
        return count, math.fsum(found.losses) / count, int((found.predicted == test[1]).sum()) / count

    def measure(self, model: Tensors, images: np.ndarray, labels: np.ndarray, top_k: int | None = None) -> Measured:
        """What `evaluate` gives, for a model {"params", "buffers"}."""
        losses: list[float] = []
        predicted: list[torch.Tensor] = []
        among = 0
        with torch.inference_mode():
            self.flat.load(model["params"], model["buffers"])
            self.flat.module.eval()
            for first in range(0, len(labels), EVALUATION_BATCH):
                batch = slice(first, first + EVALUATION_BATCH)
                output, *_ = self.outputs(self.flat.module, self.inputs(torch.from_numpy(images[batch])))
                targets = torch.from_numpy(labels[batch]).to(self.device)
                loss = F.cross_entropy(output, targets, reduction="none").double().sum()
                losses.append(float(loss))
                predicted.append(output.argmax(1))
                if top_k:
                    right = output.gather(1, targets[:, None])
                    # Not `output > right`: a score that is not a number is not above any, and would make no mistakes.
                    above, labels_before = ~(output <= right), torch.arange(output.shape[1], device=self.device)
                    above |= (output == right) & (labels_before < targets[:, None])  # of equals argmax takes the first
                    among += int((above.sum(1) < top_k).sum())
        found = torch.cat(predicted).to(torch.int16).cpu().numpy()
        return Measured(losses, found, among if top_k else None)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 images as the model's normalised float32 input, on the device."""
        inputs = normalise(pixels.to(self.device), self.recipe.mean, self.recipe.std)
        return inputs.contiguous(memory_format=torch.channels_last) if self.recipe.model.channels_last else inputs

    def outputs(self, module: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The model's float32 output [batch, classes], and in training those of its auxiliary classifiers."""
        model = self.recipe.model
        if model.precision == "float32":
            made = module(inputs)
        else:
            with torch.autocast(self.device, torch.bfloat16):
                made = module(inputs)
        outputs = made if isinstance(made, tuple) else (made,)
        return [output.float() for output in (outputs if model.aux_weight else outputs[:1])]

    def outputs_and_features(self, module: nn.Module, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What `outputs` gives, and the features [batch, d], the input of the last Linear layer."""
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        seen: list[torch.Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            return self.outputs(module, inputs), seen[0].float()
        finally:
            handle.remove()

    @torch.no_grad()
    def features(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return self.outputs_and_features(module, inputs)[1]

    def tensors(self, vectors: Vectors) -> Tensors:
        return {name: torch.from_numpy(vector).to(self.device) for name, vector in vectors.items()}

    def arrays(self, tensors: Tensors) -> Vectors:
        """As NumPy arrays that share no memory with the model, which the next client overwrites."""
        flat = (self.flat.params, self.flat.grads, self.flat.buffers)
        mine = {vector.untyped_storage().data_ptr() for vector in flat}
        return {
            name: (tensor.clone() if tensor.untyped_storage().data_ptr() in mine else tensor).cpu().numpy()
            for name, tensor in tensors.items()
        }


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Whatever the client's code raises comes out as a ClientError: what failed, and the traceback.

    What is wrong with what the user gave comes out as the sentence that it is.
    """
    try:
        yield
    except BadInputError as error:
        raise ClientError(str(error)) from error
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

    `shard` gives a client's images and labels. An update that is not finite is left out, as its report says. Whatever a
    client's code raises comes out as a ClientError.
    """

    def one_by_one() -> Iterator[tuple[Vectors, Vectors, Report]]:
        for client, memory in zip(clients, memories, strict=True):
            with blamed_on(f"client {client} failed in round {t}"):
                trained = trainer.train(algorithm, client, *shard(client), message, memory, t, lr)
            yield trained

    def together() -> Iterator[tuple[Vectors, Vectors, Report]]:
        named = ", ".join(map(str, clients))
        blamed = f"client {named}" if len(clients) == 1 else f"one of the clients {named}, which train as one program,"
        initial = trainer.initial if algorithm.remembers else None
        shards = map(shard, clients)
        with blamed_on(f"{blamed} failed in round {t}"):
            for tensors, memory, report in trainer.together.train(
                algorithm, clients, shards, message, memories, initial, t, lr
            ):
                yield trainer.arrays(tensors), memory, report

    total, each, reports, remembered = Sum(), [], [], []
    for vectors, memory, report in together() if trainer.recipe.engine == "fused" else one_by_one():
        if not (finite(vectors) and report.train_loss is not None and math.isfinite(report.train_loss)):
            report = replace(report, status="non_finite")
        reports.append(report)
        remembered.append(memory)
        if report.status != "ok":
            continue
        if summed:
            total.add_update(vectors, algorithm.weight(report.num_examples))
        else:
            each.append(vectors)
    return Trained(reports, sum=total if summed else None, each=each), remembered


def evaluate_block(
    trainer: Trainer,
    algorithm: Any,
    clients: Sequence[int],
    shard: Callable[[int], tuple[np.ndarray, np.ndarray]],
    test: Callable[[int], tuple[np.ndarray, np.ndarray]],
    message: Vectors,
    memories: Sequence[Vectors],
    t: int,
    lr: float,
) -> list[Scores]:
    """Evaluate clients, each on images and labels that `test` gives."""
    results = []
    for client, memory in zip(clients, memories, strict=True):
        with blamed_on(f"client {client} failed in its evaluation after round {t}"):
            results.append(
                trainer.evaluate_client(algorithm, client, shard(client), test(client), message, memory, t, lr)
            )
    return results
