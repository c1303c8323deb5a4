"""The workloads of ../bare.py without fedray, for the peers' own environments. Images are noise: they cost the same.

KIND=cnn|tiny and ROUNDS come from the environment, since some of what runs here is started by the peers themselves.
"""

import os
from functools import cache

import torch
from torch import nn

CLIENTS, IMAGES, COHORT, BATCH, LR = 1000, 50, 50, 10, 0.1
KIND = os.environ.get("KIND", "cnn")
ROUNDS = int(os.environ.get("ROUNDS", "8"))


def make_model() -> nn.Module:
    """1,626,442 parameters, or logistic regression with 7,850."""
    if KIND == "tiny":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


@cache
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised inputs and labels of all clients."""
    chance = torch.Generator().manual_seed(0)
    shape = (1, 28, 28) if KIND == "tiny" else (3, 32, 32)
    n = CLIENTS * IMAGES
    return torch.randn(n, *shape, generator=chance), torch.randint(0, 10, (n,), generator=chance)


def shard(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data()
    rows = slice(client * IMAGES, (client + 1) * IMAGES)
    return x[rows], y[rows]


def report(name: str, marks: list[float]) -> None:
    """Print the median of the rounds between the marks, without the two that warm up."""
    seconds = sorted(b - a for a, b in zip(marks[2:], marks[3:]))  # noqa: B905, RUF007  the peers' Python may be older
    print(f"{KIND:<6}{name:<8}{seconds[len(seconds) // 2]:.4f} s a round (median of {len(seconds)})", flush=True)
