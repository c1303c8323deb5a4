"""Local training of many clients as one batched program: the loop of client.py for params [C, P].

Clients lie along the leading dimension of every tensor. A program computes their gradients. For stacks of Linear and
ReLU these are written out (dense.py). All other models go through torch.func.vmap (stacked.py). On a
GPU either program is captured in CUDA graphs (replayed.py). The loop around it, with the algorithms' hooks, is here.

A client's batches are padded by the size of its own shard, never by its neighbours'. So on a CPU the written-out
program gives a client the same bits, whoever is trained beside it. Other programs round differently beside other
clients. Who is trained together depends on the settings alone: on the cohort, its blocks, and how many clients are
trained at once.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from fedray.core.algorithm import Algorithm
from fedray.core.updates import Report, Vectors, num_bytes
from fedray.models.activations import measure_activations
from fedray.models.batch_norm import RunningStatistics
from fedray.models.build import build
from fedray.models.dropout import dropout_layers
from fedray.models.flat import FlatModel, Tensors
from fedray.server.task import Task
from fedray.training import chunks
from fedray.training.device import has_own_memory
from fedray.training.fused.batches import Batches, Share, share_of
from fedray.training.fused.dense import Dense
from fedray.training.fused.replayed import Program, Replayed
from fedray.training.fused.room import Blocks, Room, Rows, blocks_size
from fedray.training.fused.stacked import Stacked
from fedray.training.network import factors_of
from fedray.training.objective import Objective
from fedray.training.spec import Recipe
from fedray.training.transfer import Done, Examples, Received, to_device, to_host


class Result(NamedTuple):
    """A client's results: its update, new memory, mean loss, the norm of its update, and the images computed."""

    update: Mapping[str, Any]
    memory: Vectors
    train_loss: torch.Tensor | float
    update_norm: torch.Tensor | float
    counts: torch.Tensor | None
    """Whether the loss and the update are finite: a tensor on a device, None on the host."""
    images: int
    padding: int


Results = dict[int, Result]  # by place
WANT_OF_MEMORY = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")  # as CUDA and as cuBLAS and cuDNN say it


class Together:
    """The clients of one trainer, trained many at a time."""

    def __init__(self, recipe: Recipe, flat: FlatModel, device: str):
        self.recipe, self.flat, self.device = recipe, flat, device
        self.on_device = has_own_memory(device)
        self.on_gpu = torch.device(device).type == "cuda"
        self.written_out = recipe.model.is_written_out and not recipe.model.side(recipe.shape)
        self.statistics = RunningStatistics(flat)
        objective = Objective(recipe, device)
        program: Program = (
            Dense(recipe, flat.layout, objective)
            if self.written_out
            else Stacked(recipe, flat, device, self.statistics, objective)
        )
        self.program: Program | Replayed = Replayed(program) if self.on_gpu else program
        self.dropouts = dropout_layers(flat.module)
        self.factors = factors_of(recipe.model, flat)
        self.params_bytes = flat.params.nbytes
        self.room: tuple[torch.Tensor, torch.Tensor | None] | None = None
        """On a GPU: memory for params, and for their gradients where they were wanted flat."""
        self.at_once: int | None = None
        self.heed: Callable[[], None] = lambda: None

    def train(
        self,
        received: Received,
        clients: Sequence[int],
        shards: Iterable[Examples],
        memories: Sequence[Vectors],
        initial: Tensors | None,
    ) -> Iterator[Done]:
        """Train clients. Each one's results are as those of Trainer.work, in the order of `clients`.

        `initial` is the model that memories begin with. Clients that were trained together share the time in proportion
        to their steps.
        """
        task, message = received.task, received.message
        width = wide if self.on_gpu else narrow
        shares = (
            share_of(task, self.recipe.seed, place, client, *shard, memory, width)
            for place, (client, shard, memory) in enumerate(zip(clients, shards, memories, strict=True))
        )
        if not self.written_out:
            self.flat.load(message["params"], message["buffers"])
            self.flat.train()
        for portion in self.portions(shares):
            while portion:
                part, began, cpu_began = portion[: self.at_once], time.perf_counter(), time.process_time()
                try:
                    results = self.train_portion(task, part, message, initial)
                except RuntimeError as error:
                    if len(part) == 1 or not lacks_memory(error):
                        raise
                    self.at_once = -(-len(part) // 2)
                    self.forget()
                    continue
                portion = portion[len(part) :]
                seconds = time.perf_counter() - began, time.process_time() - cpu_began
                yield from self.report(part, results, received.bytes_down, *seconds)

    def report(
        self, part: list[Share], results: Results, bytes_down: int, seconds: float, cpu_seconds: float
    ) -> Iterator[Done]:
        """The results with their reports, in the order of `part`."""
        steps = sum(share.steps for share in part)
        bytes_up = num_bytes(results[part[0].place].update)  # all have the same length
        for share in part:
            result = results[share.place]
            loss, norm = result.train_loss, result.update_norm
            report = Report(
                client=share.client,
                num_examples=len(share.labels),
                steps=share.steps,
                train_loss=loss if isinstance(loss, float) else None,
                update_norm=norm if isinstance(norm, float) else None,
                seconds=seconds * share.steps / steps,
                cpu_seconds=cpu_seconds * share.steps / steps,
                bytes_down=bytes_down,
                bytes_up=bytes_up,
                images=result.images,
                padding=result.padding,
                squeezed=self.at_once or 0,
            )
            yield Done(result.update, result.memory, report, loss, norm, result.counts)

    def portions(self, shares: Iterable[Share]) -> Iterator[list[Share]]:
        """Consecutive shares, grouped into those that are trained at once. A group has at least one."""
        portion: list[Share] = []
        held = shards = 0
        for share in shares:
            needed = self.bytes_of_client(share.width)
            if portion and (
                len(portion) >= (self.at_once or self.recipe.chunk_size or len(portion) + 1)
                or (self.recipe.chunk_size is None and self.is_full(held + needed, shards + share.images.nbytes))
            ):
                yield portion
                portion, held, shards = [], 0, 0
            portion.append(share)
            held, shards = held + needed, shards + share.images.nbytes
        if portion:
            yield portion

    def is_full(self, held: int, shards: int) -> bool:
        """Whether `held` bytes of clients, or `shards` bytes of their images, are too many at once."""
        return (
            held > chunks.ON_GPU_AT_ONCE
            if self.on_gpu
            else held > chunks.PARAMS_AT_ONCE or shards > chunks.SHARDS_AT_ONCE
        )

    def bytes_of_client(self, width: int) -> int:
        """The bytes of a client, as chunks.py counts them."""
        params = self.params_bytes
        return chunks.bytes_of_client(params, width, *self.activations) if self.on_gpu else params

    @cached_property
    def activations(self) -> tuple[int, int]:
        """The bytes of an image, as measure_activations gives them: all that are kept, and the widest."""
        r = self.recipe
        flat = FlatModel(build(r.model, r.shape, r.classes, r.seed, r.fingerprint, r.kind))
        kept, widest, _ = measure_activations(flat, r.shape, r.kind)
        return kept, widest

    def train_portion(self, task: Task, portion: list[Share], message: Tensors, initial: Tensors | None) -> Results:
        """Train clients, those of one width at once. The largest group is first, since it takes the most room."""
        results: Results = {}
        ordered = sorted(portion, key=lambda share: (share.width, -share.steps))
        groups = [list(group) for _, group in groupby(ordered, key=attrgetter("width"))]
        for group in sorted(groups, key=len, reverse=True):
            results |= self.train_group(task, group, message, initial)
        return results

    @torch.no_grad()
    def train_group(self, task: Task, shares: list[Share], message: Tensors, initial: Tensors | None) -> Results:
        """Train C clients of one width, given those with the most steps first."""
        count, algorithm = len(shares), task.algorithm
        start = message["params"].expand(count, -1)
        remembered = stack_memories(algorithm, shares, initial, self.device)
        batches = Batches(self.recipe, shares, task, self.device, self.places(count), len(self.dropouts))
        end, buffers, losses, computed = self.descend(task, batches, message, remembered, count)
        found = algorithm.finish(start, end, batches.steps, task.lr, message, remembered)
        update, remembered = map(self.aside, found)
        if update["params"].shape != end.shape:
            shape, wanted = tuple(update["params"].shape), tuple(end.shape)
            raise ValueError(f'finish() gave updates "params" of shape {shape}, not {wanted}')
        sizes = batches.sizes[:, :count]
        images, padding = sizes.sum(0).tolist(), padded(computed, sizes, shares[0].width)
        updates = {name: rows.expand(count, -1) for name, rows in {**update, "buffers": buffers}.items()}
        means, norms, counts = self.figures(updates, losses, batches)
        memories = rows_of(remembered, count)
        # On the host these are arrays, because a row of an array is made in half the time of a tensor's.
        kept: Mapping[str, Any] = updates if self.on_device else {name: rows.numpy() for name, rows in updates.items()}
        results: Results = {}
        for i, share in enumerate(shares):
            mine = {name: rows[i] for name, rows in kept.items()}
            memory = {name: rows[i].copy() for name, rows in memories.items()}  # a view would keep the others' memory
            results[share.place] = Result(mine, memory, means[i], norms[i], counts[i], images[i], padding[i])
        return results

    def figures(self, updates: Tensors, losses: torch.Tensor, batches: Batches) -> tuple[Any, Any, Any]:
        """Each client's mean loss, the norm of its update, and whether both and all of the update are finite.

        On a device these are tensors [C] that nobody waited for, and an update that does not count becomes minus zeros.
        On the host the last is None, because updates are checked there when they are summed.
        """
        params = updates["params"]
        norms = torch.linalg.vector_norm(params, dim=1) if self.on_gpu else params.square().sum(1).sqrt()
        if self.on_device:
            means = (losses.double() * batches.sizes_there).sum(0) / batches.sizes_there.sum(0)
            counts = means.isfinite()
            for rows in updates.values():
                if rows.shape[1]:
                    least, most = torch.aminmax(rows, dim=1)  # either is NaN where any number is
                    counts = counts & least.isfinite() & most.isfinite()
            for name, rows in updates.items():
                updates[name] = rows.masked_fill(~counts[:, None], -0.0)
            return means, norms, counts
        # cumsum adds step after step. sum would take another order for one client than for many.
        sizes = batches.sizes_there.numpy()
        found = (losses.numpy() * sizes).cumsum(0)[-1] / sizes.sum(0)
        return found.tolist(), norms.tolist(), [None] * len(norms)

    def descend(
        self, task: Task, batches: Batches, message: Tensors, remembered: Tensors, count: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
        """The SGD loop. Returns all params [C, P] after their last step, how far their buffers moved [C, B], the mean
        losses [S, C] of the batches, and the number of clients' places [S] that were computed.

        The clients with steps left are always the first few. The params of the others stay as they are. Their buffers
        are computed on with the others', so that they are read before.
        """
        algorithm, lr = task.algorithm, task.lr
        steps, places = batches.sizes.shape
        plainly = self.goes_plainly(algorithm)
        room = self.take_room(places, message["params"], apart=plainly)
        self.statistics.start(places, message["buffers"])
        moved: list[torch.Tensor] = []
        velocity: torch.Tensor | None = None
        losses = torch.zeros(steps, count, device=self.device)
        places_computed = np.zeros(steps, np.int64)
        before, optimizer = 0, None
        for step, active in enumerate((batches.sizes > 0).sum(1).tolist()):
            if active != before:
                if before:
                    moved.insert(0, self.statistics.moved(active, before))
                computed = self.places(count, active)
                self.program.look_at(room.leaves(computed), room.grads(computed))
                grad = room.grads(active)
                if grad is None:
                    of_each = list(room.leaves(active).values())
                else:
                    now, memory = room.end(active), {name: tensor[:active] for name, tensor in remembered.items()}
                    optimizer = keep_first(optimizer, now) if before else algorithm.make_optimizer([now], lr)
                before = active
            self.heed()
            losses[step, :active] = self.program.differentiate(algorithm, batches.at(step, computed))[:active]
            places_computed[step] = computed
            if grad is None:
                torch._foreach_add_(of_each, [each[:active] for each in self.program.apart], alpha=-lr)
                continue
            algorithm.clip(grad)
            direction = algorithm.correct(grad, now, message, memory, lr)
            if optimizer:
                now.grad = grad if direction is grad else grad.copy_(direction)  # some optimizers write to it
                optimizer.step()
                continue
            if algorithm.weight_decay:
                direction = direction.add(now, alpha=algorithm.weight_decay)
            if algorithm.momentum and velocity is None:
                direction = velocity = direction.clone()
            elif algorithm.momentum and velocity is not None:
                direction = velocity[:active].mul_(algorithm.momentum).add_(direction)
            now.add_(direction if self.factors is None else direction * self.factors, alpha=-lr)
        moved.insert(0, self.statistics.moved(0, before))
        return room.end(count), torch.cat(moved), losses, places_computed

    def goes_plainly(self, algorithm: Algorithm) -> bool:
        """Whether steps go along the unchanged gradients, so that a GPU need not gather them into flat vectors."""
        changes = algorithm.corrects or algorithm.clip_norm or algorithm.weight_decay or algorithm.momentum
        changes = changes or self.factors is not None
        return self.on_gpu and not (changes or algorithm.local_optimizer or self.written_out)

    def take_room(self, places: int, start: torch.Tensor, apart: bool) -> Room:
        """Room for clients at `start` [P]. Where gradients are left apart, it is in blocks.

        Graphs on a GPU need the same memory each time.
        """
        layout = self.flat.layout
        if not self.on_gpu:
            params = start.expand(places, -1).clone(memory_format=torch.contiguous_format)
            return Rows(layout, params, torch.empty_like(params))
        size = blocks_size(layout, places)
        if self.room is None or len(self.room[0]) < size or (self.room[1] is None and not apart):
            self.forget()
            self.room = start.new_empty(size), None if apart else start.new_empty(size)
        whole, slopes = self.room
        if apart or slopes is None:
            return Blocks(layout, whole, places, start)
        params, grads = (each[: places * layout.size].view(places, -1) for each in (whole, slopes))
        params.copy_(start)
        return Rows(layout, params, grads)

    def aside(self, tensors: Tensors) -> Tensors:
        """The tensors, copied where the next group would overwrite them."""
        kept = {whole.untyped_storage().data_ptr() for whole in self.room or () if whole is not None}
        return {
            name: tensor.clone() if tensor.untyped_storage().data_ptr() in kept else tensor
            for name, tensor in tensors.items()
        }

    def places(self, count: int, active: int | None = None) -> int:
        """The number of clients that the program computes of a group of `count`, of which `active` have steps left.

        On a GPU each number needs a graph of its own. So `count` is rounded up to one of 16 numbers between powers of
        two, and halved as soon as half suffices.
        """
        if not self.on_gpu:
            return active or count
        step = max(1, 2 ** (count.bit_length() - 1) // 16)
        places = -(-count // step) * step
        while active and -(-places // 2) >= active and places > 1:
            places = -(-places // 2)
        return places

    def forget(self) -> None:
        """Give up the memory and the graphs that are kept for the next round."""
        self.room = None
        self.statistics.forget()
        self.program.forget()


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed, is for want of memory.

    Errors of CUDA and its libraries tell it only in their text. Where memory ends during a capture, the end of the
    capture may fail with an error of its own.
    """
    while error:
        if isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WANT_OF_MEMORY):
            return True
        error = error.__context__
    return False


def padded(computed: np.ndarray, sizes: np.ndarray, width: int) -> list[int]:
    """The number of padding images in each client's places, given the number of places [S] that were computed and the
    sizes [S, C] of the batches. Places beyond the last client count as the first one's."""
    count = sizes.shape[1]
    there = np.arange(count) < computed[:, None]
    found = (width * there - sizes).sum(0)
    found[0] += width * np.maximum(computed - count, 0).sum()
    return [int(number) for number in found]


def keep_first(optimizer: torch.optim.Optimizer | None, params: torch.Tensor) -> torch.optim.Optimizer | None:
    """An optimizer of more clients, as one of the first few with `params` [A, P]."""
    if optimizer:
        states = list(optimizer.state.values())  # of one tensor, or none
        optimizer.state.clear()
        for state in states:
            optimizer.state[params] = {
                name: value[: len(params)] if isinstance(value, torch.Tensor) and value.dim() else value
                for name, value in state.items()
            }
        optimizer.param_groups[0]["params"] = [params]
    return optimizer


def narrow(size: int, wanted: int) -> int:
    """The width that batches of `size` are padded to on a CPU.

    A shard that is smaller than the algorithm's batches, of `wanted` images, is padded to a multiple of 8, so that
    there are few widths.
    """
    return size if size == wanted else -(-size // 8) * 8


def wide(size: int, wanted: int) -> int:
    """The width that batches of `size` are padded to on a GPU.

    More clients at once are worth more there than less padding. Where the batch is the whole shard (`wanted` is 0), the
    width is a power of two.
    """
    return wanted or 1 << (size - 1).bit_length()


def stack_memories(algorithm: Algorithm, shares: list[Share], initial: Tensors | None, device: str) -> Tensors:
    """The clients' memories as tensors [C, ...], new for those that have none."""
    if initial is None:
        return {}
    blank: Vectors = {}
    if not all(share.memory for share in shares):
        blank = {name: tensor.cpu().numpy() for name, tensor in algorithm.init_memory(**initial).items()}
    memories = [share.memory or blank for share in shares]
    stacked = [np.stack([memory[name] for memory in memories]) for name in memories[0]]
    return dict(zip(memories[0], to_device(device, stacked), strict=True))


def rows_of(tensors: Tensors, count: int) -> Vectors:
    """Tensors as arrays of `count` rows. A vector that is the same for all clients is repeated."""
    rows = [tensor.expand(count, -1) for tensor in tensors.values()]
    on_host = all(tensor.device.type == "cpu" for tensor in rows)
    return dict(zip(tensors, [tensor.numpy() for tensor in rows] if on_host else to_host(rows), strict=True))
