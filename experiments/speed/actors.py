"""An actor for each of 100 clients: how long until all have trained, and what memory each takes then.

    python experiments/speed/actors.py [CLIENTS] [--SETTING VALUE ...]

Counted from the start of this program to the end of a round in which every client trains lenet5 (62 k parameters) on
its 500 images. Memory is the proportional set size, in which what processes share is divided among them.

2026-11-22, 2 cores: up after 34.8 s, all trained after 44.7 s, 40.9 MB each.
"""

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from settings import experiment

from fedray.run import run
from fedray.run.watch import Watch


class Weigh(Watch):
    def begin(self, job: Any, where: str) -> None:
        print(f"{seconds():6.1f} s  up: {where}", flush=True)

    def round(self, job: Any, row: Any) -> None:
        print(f"{seconds():6.1f} s  all {row['cohort_size']} trained, in {row['seconds']:.1f} s", flush=True)
        pids = pd.read_parquet(job.folder / "population")["pid"].unique()
        megabytes = sorted(proportional(pid) / 1024 for pid in pids)
        print(
            f"{len(pids)} processes, {sum(megabytes) / len(pids):.1f} MB each, {megabytes[0]:.1f} to "
            f"{megabytes[-1]:.1f}, {sum(megabytes) / 1024:.2f} GB in all"
        )


def proportional(pid: int) -> int:
    """A process's proportional set size, in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ValueError(f"process {pid} tells nothing of its memory")


def seconds() -> float:
    """Since this program was started."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100


BASE: dict[str, Any] = {
    "rounds": 1,
    "algorithm": {"batch_size": 50},
    "data": {"test_examples": 1000},
    "cluster": {"clients_per_actor": 1},
}


if __name__ == "__main__":
    words = sys.argv[1:]
    count = int(words.pop(0)) if words and words[0].isdigit() else 100
    run(experiment({**BASE, "clients": count, "cohort": count}, words), Weigh())
    print(f"{seconds():6.1f} s  everything shut down")
