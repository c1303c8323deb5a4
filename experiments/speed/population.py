"""Does a round cost more in a larger population? 1,000, 10,000 and 100,000 packed clients of 50 images, cohort 50.

    python experiments/speed/population.py [--SETTING VALUE ...]

Each population is a program of its own; the 60 rounds of lenet5 (62 k parameters) take turns to cancel the machine's
moods: ten rounds of one, ten of the next. Start is from the program's start to the first round's; memory is the
proportional set size of the driver, Ray and the actors together, with the object store.

2026-11-22, 2 cores: 0.376, 0.369 and 0.368 s a round; 100,000 clients start in 3.8 s and take 1.28 GB.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from settings import experiment

from fedray.run import run
from fedray.run.watch import Watch

SIZES = (1_000, 10_000, 100_000)
TURNS, ROUNDS = 6, 10
BASE: dict[str, Any] = {
    "rounds": TURNS * ROUNDS + 2,  # one to warm up, one that is evaluated
    "cohort": 50,
    "partition": {"name": "sampled", "examples": 50},
    "algorithm": {"batch_size": 10},
    "evaluation": {"every": 10**6},
    "data": {"test_examples": 100},
}


class TakeTurns(Watch):
    """Play ten rounds for each line on standard input, and say how long each took."""

    def begin(self, job: Any, where: str) -> None:
        process = psutil.Process()
        print(time.time() - process.create_time(), flush=True)

    def round(self, job: Any, row: Any) -> None:
        print(row["seconds"] - row["seconds_record"], flush=True)
        if row["round"] == 1:
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            print(sum(member.memory_full_info().pss for member in family) / 2**30, flush=True)
        if row["round"] % ROUNDS == 1:
            sys.stdin.readline()


def main(words: list[str]) -> None:
    command = [sys.executable, __file__, "--one", *words]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    programs, starts, memory = {}, {}, {}
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    for size in SIZES:
        programs[size] = subprocess.Popen([*command, "--clients", str(size)], **pipes)
        starts[size], _, memory[size] = (float(programs[size].stdout.readline()) for _ in range(3))
    for _ in range(TURNS):
        for size, program in programs.items():
            program.stdin.write("\n")
            program.stdin.flush()
            seconds[size] += [float(program.stdout.readline()) for _ in range(ROUNDS)]
    for program in programs.values():
        program.communicate("\n")
    first = np.median(seconds[SIZES[0]])
    for size in SIZES:
        median = np.median(seconds[size])
        print(
            f"{size:>7,} clients: {median:.4f} s a round, {median / first:.3f} of the smallest's; "
            f"start {starts[size]:.1f} s, {memory[size]:.2f} GB in all"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run(experiment(BASE, sys.argv[2:]), TakeTurns())
    else:
        print(f"{Path(__file__).name}: medians of {TURNS * ROUNDS} rounds")
        main(sys.argv[1:])
