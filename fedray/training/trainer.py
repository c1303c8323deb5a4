"""The model of a process, which trains and evaluates one client after another."""

import ctypes
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedray.core.errors import blamed_on
from fedray.core.randomness import generator, torch_seed
from fedray.core.scores import Measured
from fedray.core.updates import Report, Scores, Vectors, num_bytes
from fedray.data.augment import crop_flip_as_drawn, cutout, draw_crop_flip, draw_cutout, normalise
from fedray.models.build import build, names_of
from fedray.models.dropout import dropout_layers
from fedray.models.flat import Array, FlatModel, Tensors, tensor_of
from fedray.training.client import Client, epoch_steps
from fedray.training.device import LARGEST_KEPT
from fedray.training.fused.together import Together
from fedray.training.personal import OwnPart
from fedray.training.spec import Recipe, evaluation_batch
from fedray.training.transfer import Done, Examples, numbers_to, to_host


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
        self.apart = device != "cpu"
        """Whether the device has a memory of its own and works on its own; tests call one that has not "cpu:0"."""
        self.flat = self.build()
        self.dropouts = list(dropout_layers(self.flat.module).values())
        self.last_received: tuple[Vectors, Any, Tensors] | None = None
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
        images: Array,
        labels: Array,
        message: Vectors,
        memory: Vectors,
        t: int,
        lr: float,
    ) -> tuple[Vectors, Vectors, Report]:
        """One client's round t from the message: its update, its new memory and its report.

        `images` is uint8 [n, c, h, w], `labels` int64 [n]; nothing given is changed.
        """
        with self.arithmetic():
            return self.read(self.work(algorithm, client, images, labels, message, memory, t, lr))

    def work(
        self,
        algorithm: Any,
        client: int,
        images: Array,
        labels: Array,
        message: Vectors | Tensors,
        memory: Vectors,
        t: int,
        lr: float,
    ) -> Done:
        """What `train` gives, as it is on the device; the next client's round overwrites it."""
        began = time.perf_counter()
        images, labels = self.place(images, labels)
        received, remembered, own = self.receive(algorithm, message, memory)
        here = Client(self, algorithm, client, images, labels, received, remembered, t, lr)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.recipe.seed, "dropout", t=t, client=client))
            update, remembered = algorithm.local_round(here, received, remembered, lr)
        if own:
            update, kept = own.split(received, update)
            remembered = {**remembered, **kept}
        new_memory = self.arrays(remembered)
        found, wanted = tuple(update["params"].shape), tuple(message["params"].shape)
        if found != wanted:
            raise ValueError(f'finish() gave an update "params" of shape {found}, not {wanted}')
        loss: torch.Tensor | float = here.train_loss
        norm: torch.Tensor | float = torch.dot(update["params"], update["params"]).sqrt()
        if not self.apart:
            loss, norm = float(loss), float(norm)
        unsent = own.num_bytes if own else 0
        report = Report(
            client=client,
            num_examples=len(labels),
            steps=here.steps,
            train_loss=loss if isinstance(loss, float) else None,
            update_norm=norm if isinstance(norm, float) else None,
            seconds=time.perf_counter() - began,
            bytes_down=num_bytes(message) - unsent,
            bytes_up=num_bytes(update) - unsent,
            images=here.seen,
        )
        return Done(update, new_memory, report, loss, norm)

    def read(self, done: Done) -> tuple[Vectors, Vectors, Report]:
        """What `train` gives; on a device it is waited for, and that is part of the client's seconds."""
        if not self.apart:
            return self.arrays(done.update), done.memory, done.report
        began = time.perf_counter()
        *vectors, last_loss, last_norm = to_host([*done.update.values(), *done.numbers])
        loss, norm = last_loss.item(), last_norm.item()
        seconds = (done.report.seconds or 0.0) + time.perf_counter() - began
        report = replace(done.report, train_loss=loss, update_norm=norm, seconds=seconds)
        return dict(zip(done.update, vectors, strict=True)), done.memory, report

    def place(self, images: Array, labels: Array) -> Examples:
        """Images and labels where they are worked on: on the device, but for those that are too large for that."""
        if isinstance(images, torch.Tensor) or not self.apart or images.nbytes > LARGEST_KEPT:
            return images, labels
        return torch.from_numpy(images).to(self.device), tensor_of(labels).to(self.device)

    def received(self, message: Vectors) -> Tensors:
        """A message on the device, copied once for all that is done with it one after another.

        That is known of arrays that cannot be written to, as of all from Ray's object store: the last ones are held, so
        that others in the same place are the same.
        """
        if not self.apart:
            return self.tensors(message)
        places: Any = {name: vector.__array_interface__ if vector.size else 0 for name, vector in message.items()}
        if any(vector.flags.writeable for vector in message.values() if vector.size):
            places = None
        if self.last_received is None or places is None or places != self.last_received[1]:
            self.last_received = message, places, self.tensors(message)
        return self.last_received[2]

    def receive(
        self, algorithm: Any, message: Vectors | Tensors, memory: Vectors
    ) -> tuple[Tensors, Tensors, OwnPart | None]:
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
        images: Array,
        labels: Array,
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
            drawn: dict[str, Any] = {}
            drawn["order"] = generator(seed, "shuffle", t=t, client=client, epoch=epoch).permutation(n)
            if "crop-flip" in self.recipe.augment:
                drawn["crops"] = draw_crop_flip(generator(seed, "augment", t=t, client=client, epoch=epoch), n)
            if "cutout" in self.recipe.augment:
                holes = generator(seed, "cutout", t=t, client=client, epoch=epoch)
                drawn["holes"] = draw_cutout(holes, images.shape)
            if isinstance(images, torch.Tensor):
                drawn = dict(zip(drawn, numbers_to(self.device, *drawn.values()), strict=True))
            pixels, targets = tensor_of(images[drawn["order"]]), tensor_of(labels[drawn["order"]])
            if "crops" in drawn:
                pixels = crop_flip_as_drawn(pixels, drawn["crops"])
            if "holes" in drawn:
                pixels = cutout(pixels, drawn["holes"], self.recipe.cutout, self.recipe.mean)
            for first in list(range(0, ends, size))[:remaining]:
                batch = slice(first, min(first + size, ends))
                yield self.inputs(pixels[batch]), targets[batch].to(self.device)
                remaining -= 1
            epoch += 1

    def evaluate(self, message: Vectors, images: Array, labels: Array, top_k: int | None = None) -> Measured:
        """What the message's model gives for these images, in batches of recipe.evaluation_batch."""
        with blamed_on("evaluation failed"), self.arithmetic():
            model = self.received({name: message[name] for name in ("params", "buffers")})
            return self.measure(model, images, labels, top_k)

    def evaluate_client(
        self,
        algorithm: Any,
        client: int,
        shard: Examples,
        test: Examples,
        message: Vectors | Tensors,
        memory: Vectors,
        t: int,
        lr: float,
    ) -> Scores:
        """How the model that a client would use does on images and labels of its own.

        `message` is the broadcast of the state after round t.
        """
        received, remembered, _ = self.receive(algorithm, message, memory)
        shard = self.place(*shard)
        here = Client(self, algorithm, client, *shard, received, remembered, t, lr, first_epoch=FINE_TUNING)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.recipe.seed, "fine-tune", t=t, client=client))
            model = algorithm.own_model(here, received, remembered, lr)
        found, count = self.measure(model, *test), len(test[1])
        labels = test[1].cpu().numpy() if isinstance(test[1], torch.Tensor) else test[1]
        return count, math.fsum(found.losses) / count, int((found.predicted == labels).sum()) / count

    def measure(self, model: Tensors, images: Array, labels: Array, top_k: int | None = None) -> Measured:
        """What `evaluate` gives, for a model {"params", "buffers"}; read from the device once."""
        images, labels = self.place(images, labels)
        losses: list[torch.Tensor] = []
        predicted: list[torch.Tensor] = []
        among = torch.zeros((), dtype=torch.int64, device=self.device)
        size = evaluation_batch(self.device)
        with torch.inference_mode():
            self.flat.load(model["params"], model["buffers"])
            self.flat.module.eval()
            for first in range(0, len(labels), size):
                batch = slice(first, first + size)
                output, *_ = self.outputs(self.flat.module, self.inputs(tensor_of(images[batch])))
                targets = tensor_of(labels[batch]).to(self.device)
                losses.append(F.cross_entropy(output, targets, reduction="none").double().sum())
                predicted.append(output.argmax(1))
                if top_k:
                    right = output.gather(1, targets[:, None])
                    # Not `output > right`: a score that is not a number is not above any, and would make no mistakes.
                    above, labels_before = ~(output <= right), torch.arange(output.shape[1], device=self.device)
                    above |= (output == right) & (labels_before < targets[:, None])  # of equals argmax takes the first
                    among += (above.sum(1) < top_k).sum()
            numbers = torch.stack(losses), torch.cat(predicted).to(torch.int16), among
            sums, labels_found, hits = to_host(numbers) if self.apart else [each.numpy() for each in numbers]
        return Measured(sums.tolist(), labels_found, int(hits) if top_k else None)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 images as the model's normalised float32 input, on the device."""
        inputs = normalise(pixels.to(self.device), self.recipe.mean, self.recipe.std)
        return inputs.contiguous(memory_format=torch.channels_last) if self.recipe.model.channels_last else inputs

    def outputs(self, module: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The model's float32 output [batch, classes], and in training those of its auxiliary classifiers."""
        model = self.recipe.model
        if model.precision == "bfloat16":
            with torch.autocast(torch.device(self.device).type, torch.bfloat16):
                made = module(inputs)
        else:
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

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """For the length of a `with`, TensorFloat-32 on a GPU where the settings say so, whatever it was before.

        With the names of torch 2.9, beside which those of before must not be used.
        """
        cudnn: Any = torch.backends.cudnn
        flags = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn] if self.apart else []  # a CPU heeds none of them
        before = [flag.fp32_precision for flag in flags]
        try:
            for flag in flags:
                flag.fp32_precision = "tf32" if self.recipe.model.precision == "tf32" else "ieee"
            yield
        finally:
            for flag, precision in zip(flags, before, strict=True):
                flag.fp32_precision = precision

    def tensors(self, vectors: Vectors | Tensors) -> Tensors:
        """Vectors on the device; those that are tensors are there."""
        return {
            name: vector if isinstance(vector, torch.Tensor) else torch.from_numpy(vector).to(self.device)
            for name, vector in vectors.items()
        }

    def arrays(self, tensors: Mapping[str, Any]) -> Vectors:
        """As NumPy arrays, if they are not, that share no memory with the model, which the next client overwrites."""
        if self.apart:
            return dict(zip(tensors, to_host(list(tensors.values())), strict=True))
        return {
            name: vector
            if isinstance(vector, np.ndarray)
            else (vector.clone() if vector.untyped_storage().data_ptr() in self.overwritten else vector).numpy()
            for name, vector in tensors.items()
        }

    @cached_property
    def overwritten(self) -> set[int]:
        """Where the vectors lie that the model trains in."""
        flat = (self.flat.params, self.flat.grads, self.flat.buffers)
        return {vector.untyped_storage().data_ptr() for vector in flat if len(vector)}
