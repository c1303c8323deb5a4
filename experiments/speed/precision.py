"""bfloat16 against float32: seconds of a client's five steps of the CNN, alternating, in one thread.

    python experiments/speed/precision.py

What it does to accuracy is precision.toml's question.

2026-11-22, 2 cores: 1.51 times faster (13.9 and 9.3 ms a step).
"""

import time

import numpy as np
import torch

from fedray.algorithms.fedavg import FedAvg
from fedray.models.model import Model
from fedray.server.task import Task
from fedray.training.spec import Recipe
from fedray.training.trainer import Trainer, settle_in

TIMES = 30


def main() -> None:
    settle_in()
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8), chance.integers(0, 10, 50)
    algorithm = FedAvg(lr=0.1, batch_size=10)
    trainers = {}
    for precision in ("float32", "bfloat16"):
        model = Model(name="cnn", precision=precision).resolved()  # type: ignore[arg-type]
        trainers[precision] = Trainer(Recipe(model, (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, "none", 0, "plain"))
    flat = trainers["float32"].network.flat
    message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy().copy()}
    seconds: dict[str, list[float]] = {precision: [] for precision in trainers}
    for _ in range(TIMES):
        for precision, trainer in trainers.items():
            began = time.perf_counter()
            trainer.train(Task(algorithm, message, 1, 0.1), 0, images, labels, {})
            seconds[precision].append((time.perf_counter() - began) / 5)
    float32, bfloat16 = (np.array(seconds[precision][3:]) for precision in trainers)
    print(
        f"{torch.backends.cpu.get_cpu_capability()}: float32 {np.median(float32) * 1e3:.1f} ms a step, bfloat16 "
        f"{np.median(bfloat16) * 1e3:.1f} ms, {np.median(float32 / bfloat16):.2f} times faster"
    )


if __name__ == "__main__":
    main()
