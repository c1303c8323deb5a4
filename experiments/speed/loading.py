"""How long it takes to load a sweep of 200 runs, and what the tables of one run weigh: 100 rounds, 10 clients each.

    python experiments/speed/loading.py [runs]

The runs are written with the real Recorder from made-up rows, as hard to compress as real ones, to a temporary folder;
each load is a fresh process. The target is 2 s, and 100 kB a run.

2026-11-23, 2 cores: 1.07 s for 200 runs (1.41 s with the imports), 68 kB a run; with the files compressed by zstd it
took 2.6 s of a processor, not 1.0, and 64 kB.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedray.experiment.composition import compose
from fedray.results.recorder import Recorder

ROUNDS, COHORT, CLIENTS, LABELS, ACTORS = 100, 10, 100, 10, 16
TIMES = 5

LOAD = """
import sys, time
began = time.perf_counter()
from fedray.results import load
import pandas, pyarrow
imported, processor = time.perf_counter(), time.process_time()
results = load("sweep", sys.argv[1])
loaded, processor = time.perf_counter(), time.process_time() - processor
assert len(results.rounds) == int(sys.argv[2]) * 100 and len(results.clients) == int(sys.argv[2]) * 1000
print(loaded - imported, loaded - began, processor)
"""


def write(root: Path, number: int) -> str:
    """One finished run, of a seed and learning rate of its own."""
    chance = np.random.default_rng(number)
    actors, node = [chance.bytes(16).hex() for _ in range(ACTORS)], chance.bytes(28).hex()
    seed, lr = number % 5, (number // 5 + 1) / 1000
    settings = compose({"seed": seed, "rounds": ROUNDS, "algorithm": {"name": "fedavg", "lr": lr}}).settings()
    words = {"algorithm": "fedavg", "dataset": "cifar10", "data_format": "jpeg", "model": "cnn", "partition": "shards"}
    counts = {"clients": CLIENTS, "cohort": COHORT, "epochs": 5, "local_steps": None, "batch_size": 32, "seed": seed}
    numbers = {"alpha": None, "lr": lr, "momentum": 0.9, "server_lr": 1.0}
    row = {"settings": json.dumps(settings), "rounds_planned": ROUNDS, "partition_id": f"partition{seed}"}
    run = f"fedavg-seed{seed}-{number:010x}"
    recorder = Recorder(root, "sweep", run, {**words, **counts, **numbers, "weighting": "num_examples"}, row)
    sizes = chance.integers(300, 700, CLIENTS)
    recorder.start(
        {
            "client": np.arange(CLIENTS),
            "actor": [actors[client % ACTORS] for client in range(CLIENTS)],
            "node": [node] * CLIENTS,
            "pid": np.arange(CLIENTS) % ACTORS + 1000,
            "num_cpus": np.full(CLIENTS, ACTORS / CLIENTS),
            "num_gpus": np.zeros(CLIENTS),
            "num_examples": sizes,
        },
        {
            "client": np.repeat(np.arange(CLIENTS), LABELS),
            "label": np.tile(np.arange(LABELS), CLIENTS),
            "label_name": [f"class {label}" for label in range(LABELS)] * CLIENTS,
            "count": chance.integers(0, 100, CLIENTS * LABELS),
        },
    )
    for t in range(1, ROUNDS + 1):
        cohort = chance.choice(CLIENTS, COHORT, replace=False)
        recorder.round(round_row(t, lr, chance), client_columns(cohort, sizes, actors, node, chance))
    recorder.finish("finished")
    return run


def round_row(t: int, lr: float, chance: np.random.Generator) -> dict[str, Any]:
    measured = ("test_loss", "train_loss", "update_norm", "seconds", "seconds_train", "seconds_transfer")
    measured += ("seconds_aggregate", "seconds_idle", "seconds_evaluate", "seconds_record")
    return {
        "round": t,
        "round_lr": lr,
        "test_accuracy": int(chance.integers(1000, 9000)) / 10_000,
        "cohort_size": COHORT,
        "num_examples": int(chance.integers(4000, 6000)),
        "bytes_down": 62_000_000,
        "bytes_up": 62_000_000,
        "retries": 0,
        **{name: chance.random() for name in measured},
        "finished_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=t * 2345 + int(chance.integers(99))),
    }


def client_columns(
    cohort: np.ndarray, sizes: np.ndarray, actors: list[str], node: str, chance: np.random.Generator
) -> dict[str, Any]:
    return {
        "client": cohort,
        "num_examples": sizes[cohort],
        "steps": sizes[cohort] // 32 * 5,
        **{name: chance.random(COHORT) for name in ("train_loss", "update_norm", "seconds")},
        "status": ["ok"] * COHORT,
        "actor": [actors[client % ACTORS] for client in cohort],
        "node": [node] * COHORT,
        "pid": cohort % ACTORS + 1000,
    }


def main(runs: int = 200) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [write(root, number) for number in range(runs)]
        sizes = {path.parent.name: path.stat().st_size for path in root.glob(f"sweep/*/{names[0]}.parquet")}
        sizes["partitions"] = (root / "sweep" / "partitions" / "partition0.parquet").stat().st_size
        print(f"one run: {sum(sizes.values()) / 1000:.1f} kB", {name: f"{n / 1000:.1f}" for name, n in sizes.items()})
        command = [sys.executable, "-c", LOAD, folder, str(runs)]
        times = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(TIMES)]
    alone, imports_too, processor = (median(map(float, column)) for column in zip(*map(str.split, times), strict=True))
    print(
        f"load of {runs} runs: {alone:.2f} s ({processor:.2f} s of a processor), with the imports {imports_too:.2f} s "
        f"(medians of {TIMES})"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
