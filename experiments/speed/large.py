"""A large model: what a round of torchvision's resnet18 (11.2 M parameters) costs besides training, and in memory.

    python experiments/speed/large.py [--SETTING VALUE ...]

A cohort of 20 makes one local step each. Overhead is all that is neither training nor evaluation. The driver's memory
is what it has of its own (no shared memory), sampled all through the rounds, above what it had before the first one.

2026-11-22, 2 cores: overhead 0.31 to 0.34 s a round (transfer and aggregate 0.13 each), 3.8 vectors, nothing spilled.
2026-11-27, 2 other cores: overhead 0.53 s (transfer 0.16, aggregate 0.25), 3.1 vectors, nothing spilled.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from settings import experiment

from fedray.run import run
from fedray.run.watch import Watch

BASE: dict[str, Any] = {
    "rounds": 12,
    "clients": 1000,
    "cohort": 20,
    "partition": {"name": "sampled", "examples": 50},
    "model": {"name": "resnet18"},
    "algorithm": {"steps": 1, "batch_size": 10},
    "evaluation": {"every": 10**6},
    "data": {"test_examples": 100},
}


def own_memory() -> int:
    """This process's anonymous memory in bytes."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Weigh(Watch):
    def begin(self, job: Any, where: str) -> None:
        self.vector, self.before, self.most, self.over = job.vectors[0].nbytes, own_memory(), 0, False
        self.cohort, self.session = job.experiment.cohort, Path(ray._private.worker._global_node.get_session_dir_path())
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        while not self.over:
            self.most = max(self.most, own_memory())
            time.sleep(0.005)

    def round(self, job: Any, row: Any) -> None:
        if row["round"] == job.experiment.rounds:
            self.over = True
            spilled = [path for path in self.session.rglob("*") if "spill" in path.name and path.is_file()]
            self.spilled = sum(path.stat().st_size for path in spilled)


def main(words: list[str]) -> None:
    watch = Weigh()
    tables = run(experiment(BASE, words), watch)
    rounds = tables.rounds.iloc[1:-1]  # the first one warms the object store up, the last one is evaluated
    parts = {name: rounds[f"seconds_{name}"].median() for name in ("transfer", "aggregate", "idle", "record")}
    overhead = rounds["seconds"] - rounds["seconds_train"]
    vectors = (watch.most - watch.before) / watch.vector
    print(f"resnet18, cohort {watch.cohort}: overhead {overhead.median():.3f} s a round (median of {len(rounds)})")
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in parts.items()))
    print(f"  training {rounds['seconds_train'].median():.3f} s; in round 1 overhead was ", end="")
    print(f"{tables.rounds['seconds'].iloc[0] - tables.rounds['seconds_train'].iloc[0]:.3f} s")
    print(
        f"  the driver grew by {vectors:.1f} model vectors of {watch.vector} bytes; {watch.spilled} bytes were spilled"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
