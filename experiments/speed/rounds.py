"""make bench: a round of fedray against the same SGD steps in bare PyTorch, alternating, and where the time goes.

    python experiments/speed/rounds.py [cnn] [tiny] [evaluate] [--rounds 9] [--SETTING VALUE ...]

Timed is the whole round as a user's run plays it: sample, broadcast, train, gather, aggregate, record; evaluation
apart. A round of bare.py follows each round of fedray in the same minute on the same cores, while the other waits, and
the ratio is taken pair by pair. That both make 250 steps on 2,500 images is asserted from fedray's own tables.
`evaluate` is an evaluation of the CNN on 10,000 images.
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

from fedray import job as jobs
from fedray.data import Dataset
from fedray.run import Watch, run

WARM_UP = 2
PARTS = ("train", "transfer", "aggregate", "idle")


class Alternate(Watch):
    """A round of bare.py after each round of fedray."""

    def __init__(self, kind: str, rounds: int):
        self.kind, self.rounds = kind, rounds
        self.seconds: list[tuple[float, float]] = []

    def begin(self, job: Any, where: str) -> None:
        self.bare = Bare(self.kind)
        self.bare.round()
        self.resumed = time.perf_counter()

    def round(self, job: Any, row: Any) -> None:
        ours = time.perf_counter() - self.resumed
        if self.kind == "evaluate":
            ours = row["seconds_evaluate"]
        self.seconds.append((ours, self.bare.round()))
        self.resumed = time.perf_counter()


def noise(_: Any, fingerprint: str) -> Dataset:
    """The images of `tiny`; what is in them costs the same."""
    train, labels = tiny_data(CLIENTS * IMAGES)
    classes = tuple(map(str, range(10)))
    return Dataset(
        "noise", "generated", train, labels, train[:100], labels[:100], (0.5,), (0.25,), classes, fingerprint
    )


def measure(kind: str, rounds: int, words: list[str]) -> None:
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
    if kind == "tiny":
        jobs.load_data = noise  # type: ignore[assignment]
    watch = Alternate(kind, rounds)
    tables = run(experiment(base, words), watch)
    watch.bare.close()
    if kind != "evaluate":
        work = tables.clients.groupby("round")[["steps", "num_examples"]].sum()
        assert (work == [COHORT * IMAGES // BATCH, COHORT * IMAGES]).all(axis=None), work
    timed = watch.seconds[WARM_UP:-1]
    ours, bare = (np.array(column) for column in zip(*timed, strict=True))
    ratios = ours / bare
    print(
        f"{kind:<9}bare {np.median(bare):.4f} s a round, fedray {np.median(ours):.4f} s, ratio {np.median(ratios):.3f} "
        f"(medians of {len(timed)} pairs, {ratios.min():.3f} to {ratios.max():.3f})"
    )
    if kind == "evaluate":
        return
    parts = {part: tables.rounds[f"seconds_{part}"].to_numpy()[WARM_UP:-1] for part in PARTS}
    parts["record"] = ours - sum(parts.values())
    print("         " + ", ".join(f"{name} {np.median(values):.4f}" for name, values in parts.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--rounds", type=int, default=9)
    given, rest = parser.parse_known_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("fedray", "torch", "ray"))
    print(f"{CORES} cores, Python {platform.python_version()}, {versions}")
    for kind in given.kinds or MODELS:
        measure(kind, given.rounds, rest)


if __name__ == "__main__":
    sys.exit(main())
