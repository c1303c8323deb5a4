"""engine = fused against plain on a CPU: seconds of a block of clients, alternating, in one thread.

    python experiments/speed/together.py

A block is eight clients of 20 images, in batches of 10. Fused computes convolutions as torch.func.vmap does, with a
group for each client, or all layers as on a GPU (fedray/training/fused/forms.py). FORMS chooses by device.

2026-11-23, 2 cores, fused in parts of plain, with groups and with products of windows, which were then a GPU's form:

    logistic 0.32 0.28, mlp 0.93 0.89 (these have no convolutions: two measurements of the same)
    lenet5 0.99 1.42, cnn 1.99 2.43, GroupNorm resnet20 1.20 2.75, GroupNorm resnet18 1.24 2.71
"""

import time
from dataclasses import replace
from statistics import median

import numpy as np

from fedray.algorithms.fedavg import FedAvg
from fedray.models.model import KNOWN, Model
from fedray.server.task import Task
from fedray.training.block import train_block
from fedray.training.fused import stacked
from fedray.training.fused.forms import ByTable
from fedray.training.fused.layers import AsTorchDoes
from fedray.training.spec import Recipe
from fedray.training.trainer import Trainer, settle_in

TIMES, CLIENTS, IMAGES = 9, 8, 20
WAYS = {
    "plain": ("plain", AsTorchDoes),
    "fused, groups": ("fused", AsTorchDoes),
    "fused, as on a GPU": ("fused", ByTable),
}


def main() -> None:
    settle_in()
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (CLIENTS, IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = chance.integers(0, 10, (CLIENTS, IMAGES))
    algorithm = FedAvg(lr=0.1, batch_size=10)
    for name in ("logistic", "mlp", "lenet5", "cnn", "resnet20", "resnet18"):
        model = Model(name=name, norm="group" if KNOWN[name].norms else "own").resolved()
        recipe = Recipe(model, (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, "none", 0, "plain")
        trainers, seconds = {}, {way: list[float]() for way in WAYS}
        for way, (engine, form) in WAYS.items():
            stacked.FORMS["cpu"] = form
            trainers[way] = Trainer(replace(recipe, engine=engine))
        flat = trainers["plain"].network.flat
        message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy().copy()}
        shard = lambda client: (images[client], labels[client])  # noqa: E731
        for _ in range(TIMES):
            for way, trainer in trainers.items():
                began = time.perf_counter()
                train_block(trainer, Task(algorithm, message, 1, 0.1), range(CLIENTS), shard, [{}] * CLIENTS, True)
                seconds[way].append(time.perf_counter() - began)
        of_plain = {
            way: median(a / b for a, b in zip(found, seconds["plain"], strict=True)) for way, found in seconds.items()
        }
        said = ", ".join(f"{way} {ratio:.2f}" for way, ratio in of_plain.items() if way != "plain")
        print(f"{name:9} plain {median(seconds['plain']) * 1e3:.1f} ms; {said} of it", flush=True)


if __name__ == "__main__":
    main()
