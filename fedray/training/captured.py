"""The plain engine's local steps as CUDA graphs. One graph is one step for one size of batch, replayed.

A small model's step is launched slower than it is computed: a graph is launched at once. A graph computes again what it
computed when it was captured, from the same memory, with the same Python numbers. So all that changes lies in tensors
that stay in place: an epoch's images in their order, and its keys for dropout; the learning rate; the message and the
memory for an algorithm's `correct`. A counter on the device says which batch it is.

The first steps of a size are called, on the same tensors, and later ones replayed. These are the same operations on the
same numbers, so bits do not depend on what was captured when. On a CPU, and where images do not fit on the device,
nothing of this is used.

Only what Python does the same each time can be captured. fedray's own hooks do, and so do networks that
neither wait for the device nor change Python's state in a step, which is looked at before the capture. One's own
`correct`, which may count, print or draw, is called in each step, after a graph that makes the gradient, and so are the
optimizers of torch.optim. With an own `loss`, `penalty`, `clip` or
`local_gradient`, or a `loss.name` of one's own, nothing is captured.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

from fedray.core.algorithm import Algorithm
from fedray.models.dropout import KeyedDropout
from fedray.models.flat import Array, Tensors
from fedray.training.batches import Drawn, augmented
from fedray.training.graphs import Graphs, watch_for_waits
from fedray.training.network import Network
from fedray.training.spec import Recipe
from fedray.training.step import Correct, Step
from fedray.training.transfer import Sheet

log = logging.getLogger(__name__)

CALLED = 2  # steps of a size that are called before one is captured: libraries choose their algorithms, caches fill
MOST_GRAPHS = 32  # steps of further sizes are called; where a batch is the whole shard, there may be as many as shards
MOST_PROGRAMS = 8
LEAST_ROWS = 64
INPUTS = {"images": torch.uint8, "values": torch.float32, "tokens": torch.int64}
"""The types of inputs by their kind."""


class CapturedSteps:
    """The local steps of one network, as programs that stay, each with its graphs."""

    def __init__(self, network: Network):
        self.network, self.graphs = network, Graphs()
        self.room: Room | None = None
        self.programs: dict[Any, Program] = {}
        self.made = 0
        self.capturing = True
        """Whether graphs are still made. A capture that failed, for example for want of memory, was the last."""

    def serves(self, algorithm: Algorithm, images: Array) -> bool:
        """Whether clients with these images take their steps here."""
        hooks = algorithm.loss, algorithm.penalty, algorithm.clip, algorithm.local_gradient
        known = not self.network.recipe.loss.is_own
        return known and isinstance(images, torch.Tensor) and all(map(is_ours, hooks))

    def program(
        self,
        algorithm: Algorithm,
        correct: Correct | None,
        message: Tensors,
        memory: Tensors,
        lr: float,
        references: Mapping[str, nn.Module],
        examples: int,
    ) -> "Program":
        """The program of a client with so many examples, at its beginning. The rest is as in Step."""
        if self.room is None or self.room.rows < examples:
            self.forget()
            self.room = None  # before there is another
            self.room = Room(self.network, 1 << (max(examples, LEAST_ROWS) - 1).bit_length())
        own = correct is not None and not (is_ours(correct) and getattr(correct, "__self__", None) is algorithm)
        whole = not own and not algorithm.local_optimizer
        key = algorithm, whole, correct.__func__ if whole and isinstance(correct, MethodType) else None
        if key not in self.programs or not self.programs[key].fits(message, memory):
            if len(self.programs) == MOST_PROGRAMS:
                self.forget()
            self.programs[key] = Program(self, self.room, algorithm, whole)
        program = self.programs[key]
        program.begin(correct, message, memory, lr, references)
        return program

    def stop_capturing(self) -> None:
        """Give up all graphs and their memory, for good. Programs call their steps."""
        self.capturing = False
        for program in self.programs.values():
            program.captured.clear()
        self.graphs.forget()

    def forget(self) -> None:
        """Give up all programs and graphs."""
        self.programs.clear()
        self.graphs.forget()
        self.made = 0


class Room:
    """What the programs of a network read and write, besides its params, gradients and buffers."""

    def __init__(self, network: Network, rows: int):
        """There is room for epochs of so many images."""
        self.rows, recipe, device = rows, network.recipe, network.device
        width, targets = ((), torch.int64) if recipe.kind.targets == "classes" else ((recipe.classes,), torch.float32)
        self.pixels = torch.empty((rows, *recipe.shape), dtype=INPUTS[recipe.kind.inputs], device=device)
        self.targets = torch.empty((rows, *width), dtype=targets, device=device)
        self.offsets = torch.arange(rows, device=device)
        drawn = ["order", *["crops"] * ("crop-flip" in recipe.augment), *["holes"] * ("cutout" in recipe.augment)]
        self.sheet = Sheet(
            device,
            {
                "losses": (np.float64, ()),
                "lr": (np.float32, ()),
                "step": (np.int64, (1,)),
                "keys": (np.int32, (rows, len(network.dropouts), 2)),
                **dict.fromkeys(drawn, (np.int64, (rows,))),
            },
        )
        self.losses, self.lr, self.step, self.keys = (self.sheet[name] for name in ("losses", "lr", "step", "keys"))

    def fill(self, recipe: Recipe, images: torch.Tensor, labels: torch.Tensor, drawn: Drawn, **numbers: Any) -> None:
        """Put an epoch of these images here, in its order and augmented, and further fields of the sheet."""
        self.sheet.write({**numbers, "step": 0, **drawn})
        n = len(labels)
        there: Drawn = {name: self.sheet[name][:n] for name in drawn}
        torch.index_select(images, 0, there["order"], out=self.pixels[:n])
        torch.index_select(labels, 0, there["order"], out=self.targets[:n])
        if len(there) > 1:
            self.pixels[:n].copy_(augmented(self.pixels[:n], there, recipe))


class Program:
    """The local steps of one algorithm, from a room."""

    def __init__(self, owner: CapturedSteps, room: Room, algorithm: Algorithm, whole: bool):
        """A `whole` step is one graph; otherwise a graph makes the gradient, and Python moves along it."""
        self.owner, self.room, self.algorithm, self.whole = owner, room, algorithm, whole
        self.network = owner.network
        self.step: Step | None = None
        self.lr = 0.0
        self.full = 0
        self.captured: dict[tuple[int, int], tuple[Any, list[torch.Tensor]]] = {}
        """By the sizes of a batch and of a full one: the graph, and the constants that it reads."""
        self.called: Counter[tuple[int, int]] = Counter()
        self.unfit: set[tuple[int, int]] = set()

    def fits(self, message: Tensors, memory: Tensors) -> bool:
        """Whether this message and memory have their place in the step."""
        if not self.whole or not self.step or not self.step.correct:
            return True
        return shapes(self.step.message) == shapes(message) and shapes(self.step.memory) == shapes(memory)

    def begin(
        self,
        correct: Correct | None,
        message: Tensors,
        memory: Tensors,
        lr: float,
        references: Mapping[str, nn.Module],
    ) -> None:
        """Begin a training with these. What a graph reads of them is copied to where it reads it."""
        network, algorithm, room, self.lr = self.network, self.algorithm, self.room, lr
        if not self.whole:
            self.step = Step(network, algorithm, correct, message, memory, lr, room.losses, references)
            return
        if self.step is None:
            mine, own = (shaped_as(given) if correct else {} for given in (message, memory))
            self.step = Step(network, algorithm, correct, mine, own, room.lr, room.losses, references)
        for name, tensor in self.step.message.items():
            tensor.copy_(message[name])
        for name, tensor in self.step.memory.items():
            tensor.copy_(memory[name])
        if algorithm.momentum:
            if self.step.velocity is None:
                self.step.velocity = torch.empty_like(network.flat.params)
            self.step.velocity.fill_(-0.0)  # what is added to -0.0 stays as it is, 0.0 and -0.0 too

    def batches(
        self, images: torch.Tensor, labels: torch.Tensor, epochs: Iterator[tuple[Drawn, list[slice]]], keys: np.ndarray
    ) -> Iterator[slice]:
        """The places of a training's batches in the room, one after another, once they are there."""
        numbers: dict[str, Any] = {"losses": 0.0, "lr": self.lr}
        for drawn, batches in epochs:
            now, keys = keys[: len(batches)], keys[len(batches) :]
            self.room.fill(self.network.recipe, images, labels, drawn, **numbers, keys=now)
            numbers = {}
            self.full = batches[0].stop
            yield from batches

    @property
    def losses(self) -> torch.Tensor:
        """The sum of the batches' losses times their sizes. The next training overwrites it."""
        return self.room.losses

    def __call__(self, batch: slice) -> int:
        """Take the step of the batch at this place. Returns the number of its examples."""
        assert self.step is not None
        sizes = batch.stop - batch.start, self.full
        if sizes not in self.captured and self.is_due(sizes):
            self.capture(sizes)
        if sizes in self.captured:
            self.captured[sizes][0].replay()
        else:
            self.call(sizes)
        if not self.whole:
            self.step.move((self.network.flat.grads,))
        return sizes[0]

    def run(self, sizes: tuple[int, int]) -> None:
        """The operations of a step."""
        assert self.step is not None
        room, network, (size, full) = self.room, self.network, sizes
        rows = torch.add(room.offsets[:size], room.step, alpha=full)
        if network.dropouts:
            for layer, key in zip(network.dropouts, room.keys.index_select(0, room.step)[0], strict=True):
                layer.key = key
        inputs = network.inputs(room.pixels.index_select(0, rows))
        gradient = self.step.gradient(inputs, room.targets.index_select(0, rows))
        if self.whole:
            self.step.move(gradient)
        room.step.add_(1)
        for layer in network.dropouts:
            layer.key = None

    def call(self, sizes: tuple[int, int]) -> None:
        """Take a step without a graph. The last one before a capture is watched."""
        self.called[sizes] += 1
        with self.owner.graphs.beside():
            if self.called[sizes] != CALLED:
                self.run(sizes)
                return
            before = python_state(self.network.flat.module)
            with watch_for_waits() as waits:
                self.run(sizes)
            if waits or python_state(self.network.flat.module) != before:
                self.unfit.add(sizes)

    def is_due(self, sizes: tuple[int, int]) -> bool:
        """Whether a graph for these sizes is to be made now."""
        owner = self.owner
        return self.called[sizes] == CALLED and sizes not in self.unfit and owner.capturing and owner.made < MOST_GRAPHS

    def capture(self, sizes: tuple[int, int]) -> None:
        """Capture a step. Where that fails, steps are called from now on, and nothing else has changed."""
        owner = self.owner
        try:
            with owner.graphs.beside():
                graph, _ = owner.graphs.capture(lambda: self.run(sizes))
        except RuntimeError as error:
            log.info("steps are launched one by one from now on, since one could not be captured: %s", error)
            owner.stop_capturing()
            return
        owner.made += 1
        constants = [tensor for layer in self.network.dropouts for tensor in layer.positions.values()]
        self.captured[sizes] = graph, constants


def is_ours(hook: Any) -> bool:
    """Whether a hook is fedray's own."""
    return (getattr(hook, "__module__", None) or "").partition(".")[0] == "fedray"


def shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def shaped_as(tensors: Tensors) -> Tensors:
    """Tensors of the same shapes, whose numbers are to be written yet."""
    return {name: torch.empty_like(tensor) for name, tensor in tensors.items()}


OF_TORCH = frozenset(vars(nn.Module()))


def python_state(module: nn.Module) -> list[Any]:
    """What a network's step may change that is not on the device: the layers' attributes, and random numbers' states.

    A container is looked into, but not what it holds.
    """
    found: list[Any] = [random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state(legacy=False))]
    for layer in module.modules():
        if not isinstance(layer, KeyedDropout):
            found += [look(value) for name, value in vars(layer).items() if name not in OF_TORCH]
            found.append([id(buffer) for buffer in layer.buffers(recurse=False)])  # one may be another tensor now
    return found


def look(value: Any) -> Any:
    """A number or a text itself; of anything else which object it is, and which it holds."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return id(value), [id(each) for each in held]
