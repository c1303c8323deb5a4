"""make bench: a round of fedray against the same SGD steps in bare PyTorch, alternating, and where the time goes.

    python experiments/speed/rounds.py [cnn] [tiny] [evaluate] [--turns 7] [--SETTING VALUE ...]

Timed is the whole round as a user's run plays it: sample, broadcast, train, gather, aggregate, record; evaluation
apart. bare.py and fedray take turns on the same cores, a few rounds each (of tiny 20), while the other waits; a ratio
is that of two turns' medians. That both make 250 steps on 2,500 images is asserted from fedray's own tables.
`evaluate` is an evaluation of the CNN on 10,000 images.

2026-11-22, 2 cores: cnn 1.01 times bare.py (0.95 to 1.05 in seven turns), tiny 0.75 (three
runs: 0.72, 0.75 and 0.79), evaluate 0.46.
"""

import argparse
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from bare import BATCH, CLIENTS, COHORT, CORES, IMAGES, LR, MODELS, Bare, tiny_data
from settings import experiment

from fedray.data.dataset import Dataset
from fedray.run import prepared as jobs
from fedray.run import run
from fedray.run.watch import Watch

LOAD_DATA = jobs.load_data
WARM_UP = 2
PARAMETERS = {"cnn": 1_626_442, "tiny": 7_850}
TURN = {"cnn": 2, "tiny": 20, "evaluate": 1}  # rounds
PARTS = ("train", "transfer", "aggregate", "idle")


class Alternate(Watch):
    """A turn of bare.py after each turn of fedray."""

    def __init__(self, kind: str):
        self.kind = kind
        self.ours: list[float] = []
        self.turns: list[tuple[float, float]] = []  # the medians of both

    def begin(self, job: Any, where: str) -> None:
        self.bare = Bare(self.kind)
        self.bare.round()
        self.resumed = time.perf_counter()

    def round(self, job: Any, row: Any) -> None:
        ours = time.perf_counter() - self.resumed
        if self.kind == "evaluate":
            ours = row["seconds_evaluate"]
        self.ours.append(ours)
        if row["round"] > WARM_UP and (row["round"] - WARM_UP) % TURN[self.kind] == 0:
            bare = [self.bare.round() for _ in range(TURN[self.kind])]
            self.turns.append((np.median(self.ours[-TURN[self.kind] :]), np.median(bare)))
        self.resumed = time.perf_counter()


def noise(_: Any, fingerprint: str) -> Dataset:
    """The images of `tiny`; what is in them costs the same."""
    train, labels = tiny_data(CLIENTS * IMAGES)
    classes = tuple(map(str, range(10)))
    return Dataset(
        "noise", "generated", train, labels, train[:100], labels[:100], (0.5,), (0.25,), classes, fingerprint
    )


def measure(kind: str, turns: int, words: list[str]) -> None:
    rounds = turns * TURN[kind]
    base: dict[str, Any] = {
        "rounds": rounds + WARM_UP + 1,  # the last one is evaluated
        "clients": CLIENTS,
        "cohort": COHORT,
        "model": {"name": MODELS[kind]},
        "algorithm": {"lr": LR, "batch_size": BATCH, "weighting": "uniform"},
        "evaluation": {"every": 1 if kind == "evaluate" else 10**6},
        "data": {"dataset": "synthetic" if kind == "tiny" else "auto", "test_examples": 100},
    }
    if kind == "evaluate":
        base |= {"cohort": 2, "data": {}}
    jobs.load_data = noise if kind == "tiny" else LOAD_DATA  # type: ignore[assignment]
    watch = Alternate(kind)
    tables = run(experiment(base, words), watch)
    watch.bare.close()
    if kind != "evaluate":
        work = tables.clients.groupby("round")[["steps", "num_examples"]].sum()
        assert tables.runs["num_params"].tolist() == [PARAMETERS[kind]]
        assert (work == [COHORT * IMAGES // BATCH, COHORT * IMAGES]).all(axis=None), work
    timed, bare = (np.array(column) for column in zip(*watch.turns, strict=True))
    ratios = timed / bare
    print(
        f"{kind:<9}bare {np.median(bare):.4f} s a round, fedray {np.median(timed):.4f} s, ratio {np.median(ratios):.3f}"
        f" (medians of {turns} turns of {TURN[kind]}, {ratios.min():.3f} to {ratios.max():.3f})"
    )
    if kind == "evaluate":
        return
    parts = {part: tables.rounds[f"seconds_{part}"].to_numpy()[WARM_UP:-1] for part in PARTS}
    parts["record"] = np.array(watch.ours)[WARM_UP:-1] - sum(parts.values())
    print("         " + ", ".join(f"{name} {np.median(values):.4f}" for name, values in parts.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--turns", type=int, default=7)
    given, rest = parser.parse_known_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("fedray", "torch", "ray"))
    print(f"{CORES} cores, Python {platform.python_version()}, {versions}")
    for kind in given.kinds or MODELS:
        measure(kind, given.turns, rest)


if __name__ == "__main__":
    sys.exit(main())
