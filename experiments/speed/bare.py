"""The floor: the SGD steps of the benchmark in plain PyTorch, one single-threaded process for each core.

The workloads are those that pfl-research publishes its figures for (arXiv 2404.06430): 1,000 IID clients of 50 images,
50 clients a round, one local epoch of SGD with lr 0.1 in batches of 10, unweighted mean, no augmentation: 250 steps on
2,500 images a round. `cnn` is its CIFAR-10 model with 1,626,442 parameters, `tiny` logistic regression on 784 features,
where the arithmetic is nearly free and what is left is overhead. Images are normalised before the clock starts, nothing
is sampled, sent, summed or recorded. `evaluate` is 10,000 forward passes of the CNN, in fedray's batches.
"""

import multiprocessing as mp
import os
import time
from itertools import pairwise
from multiprocessing.synchronize import Barrier

import numpy as np

CLIENTS, IMAGES, COHORT, BATCH, LR = 1000, 50, 50, 10, 0.1
MODELS = {"cnn": "cnn", "tiny": "logistic", "evaluate": "cnn"}  # fedray's names
TEST_IMAGES = 10_000
CORES = len(os.sched_getaffinity(0))


def tiny_data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of noise, uint8 [n, 1, 28, 28] and int64 [n]."""
    chance = np.random.default_rng(0)
    return chance.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8), chance.integers(0, 10, n)


class Bare:
    """As many processes as cores that train a cohort when told to."""

    def __init__(self, kind: str):
        context = mp.get_context("spawn")
        self.barrier = context.Barrier(CORES + 1)
        parts = TEST_IMAGES if kind == "evaluate" else COHORT
        shares = pairwise(parts * i // CORES for i in range(CORES + 1))
        self.processes = [context.Process(target=work, args=(kind, self.barrier, *s), daemon=True) for s in shares]
        for process in self.processes:
            process.start()
        self.barrier.wait()

    def round(self) -> float:
        """Train a cohort, or evaluate; seconds."""
        self.barrier.wait()
        began = time.perf_counter()
        self.barrier.wait()
        return time.perf_counter() - began

    def close(self) -> None:
        for process in self.processes:
            process.kill()


def work(kind: str, barrier: Barrier, first: int, last: int) -> None:
    import torch
    import torch.nn.functional as F

    from fedray.models.build import build
    from fedray.models.model import Model
    from fedray.training.spec import EVALUATION_BATCH

    torch.set_num_threads(1)
    n = TEST_IMAGES if kind == "evaluate" else COHORT * IMAGES
    if kind == "tiny":
        images, labels = tiny_data(n)
    else:
        chance = np.random.default_rng(0)
        images, labels = chance.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), chance.integers(0, 10, n)
    x, y = (torch.from_numpy(images).float() / 255 - 0.47) / 0.25, torch.from_numpy(labels)
    module = build(Model(name=MODELS[kind]), images.shape[1:], 10, 0)
    params = list(module.parameters())
    start = [p.detach().clone() for p in params]
    barrier.wait()
    while True:
        barrier.wait()
        if kind == "evaluate":
            with torch.inference_mode():
                for i in range(first, last, EVALUATION_BATCH):
                    module.eval()(x[i : min(i + EVALUATION_BATCH, last)]).argmax(1)
            barrier.wait()
            continue
        for client in range(first, last):
            with torch.no_grad():
                torch._foreach_copy_(params, start)
            for i in range(client * IMAGES, (client + 1) * IMAGES, BATCH):
                loss = F.cross_entropy(module(x[i : i + BATCH]), y[i : i + BATCH])
                grads = torch.autograd.grad(loss, params)
                with torch.no_grad():
                    torch._foreach_add_(params, grads, alpha=-LR)
        barrier.wait()
