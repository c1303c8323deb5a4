"""One client after another in plain PyTorch, with and without a CUDA graph."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from on_gpu.bench import PRECISIONS, Bench, float32_as, per_round
from on_gpu.workloads import most_rounds, settings_of

from fedray.data.augment import PAD, SHIFTS, normalise
from fedray.models.build import build
from fedray.run.prepared import Job
from fedray.server.rounds import sample_cohort

Step = Callable[[torch.Tensor, torch.Tensor], object]


class Shards:
    """The clients' images and labels on the device, normalised beforehand where they are not augmented."""

    def __init__(self, job: Job, device: str):
        data, self.augmented = job.dataset, job.experiment.data.augment == "crop-flip"
        self.statistics = data.mean, data.std
        images, labels = (torch.from_numpy(a).to(device) for a in (data.train_images, data.train_labels))
        rows = [torch.from_numpy(each).to(device) for each in job.shards]
        self.images = [images[each] if self.augmented else self.inputs(images[each]) for each in rows]
        self.labels = [labels[each] for each in rows]

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images, *self.statistics)

    def of(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A client's images [n, c, h, w] as its model takes them, and its labels [n]."""
        images = self.images[client]
        return self.inputs(crop_flip(images)) if self.augmented else images, self.labels[client]


def crop_flip(images: torch.Tensor) -> torch.Tensor:
    """What fedray.data.augment.crop_flip does, drawn on the device, and nothing copied there."""
    n, channels, height, width = images.shape
    device = images.device
    dy, dx = torch.randint(0, SHIFTS, (2, n, 1), device=device)
    rows, columns = dy + torch.arange(height, device=device), dx + torch.arange(width, device=device)
    columns = torch.where(torch.rand(n, 1, device=device) < 0.5, columns.flip(1), columns)
    which, channel = torch.arange(n, device=device)[:, None, None, None], torch.arange(channels, device=device)
    padded = F.pad(images, (PAD, PAD, PAD, PAD))
    return padded[which, channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


class Loop:
    """Clients one after another in plain PyTorch."""

    def __init__(self, bench: Bench, job: Job, precision: str):
        self.module = build(job.recipe.model, job.recipe.shape, job.recipe.classes, 0).to(bench.device)
        self.params = list(self.module.parameters())
        self.start = [p.detach().clone() for p in self.params]
        self.lr, self.batch, self.device = (
            job.experiment.algorithm.lr,
            job.experiment.algorithm.batch_size,
            bench.device,
        )
        self.halves = precision == "bfloat16"

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.autocast(self.device, torch.bfloat16) if self.halves else nullcontext():
            output = self.module(x)
        loss = F.cross_entropy(output.float(), y)
        grads = torch.autograd.grad(loss, self.params)
        with torch.no_grad():
            torch._foreach_add_(self.params, grads, alpha=-self.lr)

    def train(self, images: torch.Tensor, labels: torch.Tensor, step: Step) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.params, self.start)
        for i in range(0, len(labels), self.batch):
            step(images[i : i + self.batch], labels[i : i + self.batch])

    def replayed(self, bench: Bench, x: torch.Tensor, y: torch.Tensor) -> Step:
        """The step as a CUDA graph, for batches of the size of `x` and `y`."""
        x, y = x.clone(), y.clone()
        replay = bench.captured(lambda: self.step(x, y))

        def step(images: torch.Tensor, labels: torch.Tensor) -> None:
            x.copy_(images)
            y.copy_(labels)
            replay()

        return step


def measure_eager(bench: Bench, workload: str, captured: bool = False) -> None:
    """One client after another, in each precision; `captured` as a CUDA graph, for shards of whole batches."""
    job = Job(settings_of(workload, bench.small), writes=False)
    shards, e = Shards(job, bench.device), job.experiment
    for precision in PRECISIONS:
        with bench.attempt(precision), float32_as(precision):
            loop = Loop(bench, job, precision)
            x, y = shards.of(0)
            step = loop.replayed(bench, x[: loop.batch], y[: loop.batch]) if captured else loop.step

            def play(t: int, loop: Loop = loop, step: Step = step) -> None:
                for client in sample_cohort(e.seed, t, e.clients, e.cohort):
                    loop.train(*shards.of(client), step)

            seconds = bench.rounds(play, most_rounds(bench))
            bench.tell(precision, per_round(seconds), seconds=seconds)
